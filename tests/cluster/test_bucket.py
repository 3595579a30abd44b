"""What is told about a bucket, and the rules that are put on it."""

import json

import boto3
import pytest
from typer.testing import CliRunner

from cluster.bucket import Bucket, examine, put_rules
from pipeline.cli import app
from pipeline.errors import RayrieverError


def states(bucket: Bucket) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.detail) for check in examine(bucket)}


@pytest.fixture
def found(bucket: str) -> Bucket:
    return Bucket.of(f"s3://library/runs/one?{bucket}")


def test_what_is_open_or_grows_unseen_is_warned_of_until_it_is_mended(found: Bucket):
    before = states(found)
    assert {name: before[name][0] for name in ("bucket", "credentials", "writable")} == dict.fromkeys(
        ("bucket", "credentials", "writable"), "ok"
    )
    assert before["public access"][0] == before["encryption"][0] == before["unfinished uploads"][0] == "warning"
    blocked = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    found.client.put_public_access_block(Bucket="library", PublicAccessBlockConfiguration=blocked)
    by_default = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    found.client.put_bucket_encryption(Bucket="library", ServerSideEncryptionConfiguration=by_default)
    found.client.put_bucket_versioning(Bucket="library", VersioningConfiguration={"Status": "Enabled"})
    for content in (b"old", b"older", b"new"):
        found.client.put_object(Bucket="library", Key="runs/one/manifest.json", Body=content)
    between = states(found)
    assert between["public access"] == ("ok", "blocked")
    # two of the manifest; the check itself writes and removes a file
    state, detail = between["versions"]
    assert state == "warning" and int(detail.removeprefix("enabled: ").split()[0]) >= 2, detail
    put_rules(found, 3)
    after = states(found)
    assert {state for state, _ in after.values()} == {"ok"}, after
    assert states(Bucket.of(found.uri.replace("runs/one", "runs/other")))["versions"][0] == "warning"


def test_rules_are_put_once_and_the_others_stay(found: Bucket):
    theirs = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 1},
    }
    found.client.put_bucket_lifecycle_configuration(Bucket="library", LifecycleConfiguration={"Rules": [theirs]})
    for days in (3, 9):
        put_rules(found, days)
    rules = {rule["ID"]: rule for rule in found.client.get_bucket_lifecycle_configuration(Bucket="library")["Rules"]}
    assert set(rules) == {"theirs", "rayriever-abandoned-uploads-runs/one", "rayriever-replaced-versions-runs/one"}
    abandoned = rules["rayriever-abandoned-uploads-runs/one"]
    assert abandoned["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 9
    assert abandoned["Filter"]["Prefix"] == "runs/one/", "another prefix's uploads would be ended"
    assert "Expiration" not in abandoned, "files that count would go"


def test_a_bucket_that_is_not_there_fails_the_command(bucket: str):
    done = CliRunner().invoke(app, ["bucket", "check", f"s3://nowhere/x?{bucket}", "--json"])
    assert done.exit_code == 1
    (check,) = json.loads(done.stdout)
    assert (check["name"], check["state"]) == ("bucket", "failed") and "no such bucket" in check["detail"]
    done = CliRunner().invoke(app, ["bucket", "expire", f"s3://nowhere/x?{bucket}"])
    assert done.exit_code == 1 and "nowhere" in done.stderr


def test_without_credentials_the_standard_chain_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(RayrieverError, match="no credentials in the standard chain"):
        Bucket.of(f"s3://library/x?{bucket}")
    with pytest.raises(RayrieverError, match="not an s3:// URI"):
        Bucket.of("gs://library/x")
