"""What about a bucket matters to the workspaces in it, and the two rules that keep it from growing unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.doctor import Check
from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace

ABANDONED, REPLACED = "rayriever-abandoned-uploads", "rayriever-replaced-versions"
_MOST_LISTED = 100_000  # objects; more are counted so far
_UNKNOWN = ("NotImplemented", "MethodNotAllowed", "XNotImplemented", "NoSuchConfiguration")
_ABSENT = (
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
)


@dataclass(frozen=True)
class Bucket:
    """Where an s3:// URI leads, by way of the standard chain of credentials."""

    uri: str
    name: str
    prefix: str
    client: Any  # of boto3
    credentials: str  # where they come from

    @classmethod
    def of(cls, uri: str) -> Bucket:
        """Raises RayrieverError for other URIs, and where there are no credentials."""
        import boto3
        from botocore.config import Config

        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise RayrieverError(f"{uri}: not an s3:// URI; other stores have no such checks.")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        endpoint = options.get("endpoint_override")
        session = boto3.Session()
        credentials = session.get_credentials()
        if credentials is None:
            raise RayrieverError(
                f"{uri}: no credentials in the standard chain (environment, profile, role of the machine)."
            )
        client = session.client(
            "s3",
            region_name=options.get("region"),
            endpoint_url=f"{options.get('scheme', 'https')}://{endpoint}" if endpoint else None,
            config=Config(connect_timeout=10, retries={"mode": "standard", "max_attempts": 3}),
        )
        return cls(uri, parts.netloc, parts.path.strip("/"), client, credentials.method or "unknown")


def examine(bucket: Bucket) -> list[Check]:
    """All checks; what the store does not support, or the credentials may not ask, is a warning that says so."""
    reached = _reached(bucket)
    if reached.state == "failed":
        return [reached]
    checks = {
        "credentials": _credentials,
        "writable": _writable,
        "public access": _public_access,
        "encryption": _encryption,
        "versions": _versions,
        "unfinished uploads": _unfinished,
    }
    return [reached, *(_safely(name, check, bucket) for name, check in checks.items())]


def put_rules(bucket: Bucket, days: int) -> list[dict[str, Any]]:
    """Have the store remove, after so many days, what uploads that were cut off and replaced versions leave.

    Only below the URI's prefix; the bucket's other rules stay. Returns the two rules. Raises RayrieverError where the
    store refuses.
    """
    rules = _rules(bucket, days)
    with _readable(bucket):
        kept = [rule for rule in _present_rules(bucket) if rule.get("ID") not in _ids(bucket)]
        bucket.client.put_bucket_lifecycle_configuration(
            Bucket=bucket.name,
            LifecycleConfiguration={"Rules": [*kept, *rules]},
        )
    return rules


def _rules(bucket: Bucket, days: int) -> list[dict[str, Any]]:
    abandoned, replaced = _ids(bucket)
    common = {"Status": "Enabled", "Filter": {"Prefix": f"{bucket.prefix}/" if bucket.prefix else ""}}
    return [
        {"ID": abandoned, **common, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}},
        {"ID": replaced, **common, "NoncurrentVersionExpiration": {"NoncurrentDays": days}},
    ]


def _ids(bucket: Bucket) -> tuple[str, str]:
    """Of the two rules: those of another prefix have others."""
    of = f"-{bucket.prefix}" if bucket.prefix else ""
    return f"{ABANDONED}{of}"[:255], f"{REPLACED}{of}"[:255]


def _present_rules(bucket: Bucket) -> list[Any]:
    answer = _unless_absent(bucket.client.get_bucket_lifecycle_configuration, bucket)
    return list(answer["Rules"]) if answer is not None else []


def _unless_absent(ask: Callable[..., Any], bucket: Bucket) -> Any:
    """The answer about the bucket; None where it has nothing of the kind."""
    from botocore.exceptions import ClientError

    try:
        return ask(Bucket=bucket.name)
    except ClientError as error:
        if _code(error) in _ABSENT:
            return None
        raise


def _reached(bucket: Bucket) -> Check:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = bucket.client.head_bucket(Bucket=bucket.name)
    except ClientError as error:
        reasons = {"404": "there is no such bucket", "403": "the credentials may not see it"}
        return Check("bucket", "failed", f"{bucket.name}: {reasons.get(_code(error), str(error))}")
    except BotoCoreError as error:
        return Check("bucket", "failed", f"{bucket.name}: {error}")
    return Check("bucket", "ok", f"{bucket.name} in {answer.get('BucketRegion') or 'a region it does not tell'}")


def _safely(name: str, check: Callable[[Bucket], Check], bucket: Bucket) -> Check:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return check(bucket)
    except ClientError as error:
        told = "the store does not know this" if _code(error) in _UNKNOWN else f"not told: {_code(error)}"
        return Check(name, "warning", told)
    except (BotoCoreError, RayrieverError, OSError) as error:
        return Check(name, "failed", str(error))


def _credentials(bucket: Bucket) -> Check:
    if bucket.credentials in ("env", "shared-credentials-file", "config-file"):
        detail = f"{bucket.credentials}: on a cluster, roles of the nodes need no keys and expire by themselves"
        return Check("credentials", "ok", detail)
    return Check("credentials", "ok", bucket.credentials)


def _writable(bucket: Bucket) -> Check:
    Workspace(bucket.uri).check_writable()
    return Check("writable", "ok", "written, read back and removed a file")


def _public_access(bucket: Bucket) -> Check:
    answer = _unless_absent(bucket.client.get_public_access_block, bucket)
    if answer is None:
        return Check("public access", "warning", "not blocked: an object or a policy could open the bucket to all")
    found = answer["PublicAccessBlockConfiguration"]
    open_ways = sorted(name for name, blocked in found.items() if not blocked)
    if open_ways:
        return Check("public access", "warning", f"not blocked: {', '.join(open_ways)}")
    return Check("public access", "ok", "blocked")


def _encryption(bucket: Bucket) -> Check:
    answer = _unless_absent(bucket.client.get_bucket_encryption, bucket)
    if answer is None:
        return Check("encryption", "warning", "none by default")
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    kinds = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    return Check("encryption", "ok", ", ".join(kinds))


def _versions(bucket: Bucket) -> Check:
    """Every checkpoint and manifest that is written anew leaves one."""
    status = bucket.client.get_bucket_versioning(Bucket=bucket.name).get("Status", "never enabled")
    if status == "never enabled":
        return Check("versions", "ok", "replaced objects are gone at once")
    count, size, more = 0, 0, ""
    pages = bucket.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name, Prefix=bucket.prefix)
    for listed, page in enumerate(pages, start=1):
        replaced = [each for each in page.get("Versions", []) if not each["IsLatest"]]
        count, size = count + len(replaced), size + sum(each["Size"] for each in replaced)
        if listed * 1000 >= _MOST_LISTED:
            more = ", and more"
            break
    detail = f"{status.lower()}: {count:,} replaced versions of {size / 1e9:.1f} GB{more}"
    if any(_covers(rule, bucket) and "NoncurrentVersionExpiration" in rule for rule in _present_rules(bucket)):
        return Check("versions", "ok", f"{detail}; a rule removes them")
    return Check("versions", "warning", f"{detail}; no rule removes them: rayriever bucket expire")


def _unfinished(bucket: Bucket) -> Check:
    """A node that dies while it uploads leaves parts that no listing shows, and that cost as much."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    pages = bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=bucket.prefix)
    old = sum(each["Initiated"] < yesterday for page in pages for each in page.get("Uploads", []))
    detail = f"{old:,} of more than a day"
    if any(_covers(rule, bucket) and "AbortIncompleteMultipartUpload" in rule for rule in _present_rules(bucket)):
        return Check("unfinished uploads", "ok", f"{detail}; a rule removes them")
    return Check("unfinished uploads", "warning", f"{detail}; no rule removes them: rayriever bucket expire")


def _covers(rule: Any, bucket: Bucket) -> bool:
    prefix = rule.get("Filter", {}).get("Prefix", rule.get("Prefix"))
    enabled: bool = rule["Status"] == "Enabled"
    return enabled and prefix is not None and f"{bucket.prefix}/".startswith(prefix)


def _code(error: Any) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


@contextmanager
def _readable(bucket: Bucket) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise RayrieverError(f"{bucket.uri}: {error}") from error
