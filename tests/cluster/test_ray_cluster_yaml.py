"""ray_cluster.yaml as Ray reads it, against moto's EC2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from pipeline.placement import NODE_GROUP

ROOT = Path(__file__).parents[2]
IMAGES = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    return prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An account with a security group, whose id is given, and the profiles that the file names."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps the keys that it makes in ~/.ssh
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        ec2, iam = boto3.resource("ec2", "us-east-1"), boto3.client("iam", "us-east-1")
        for name in ("rayriever-head", "rayriever-node"):
            iam.create_instance_profile(InstanceProfileName=name)
        (vpc,) = ec2.vpcs.all()
        yield ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc.id).id


def test_ray_takes_the_file(config: dict[str, Any]) -> None:
    validate_config(config)
    types = config["available_node_types"]
    assert set(types) == {"head", "cpu", "llm-gpu", "train-gpu"}
    assert types["head"]["resources"]["CPU"] == 0, "work on the head can end the cluster"
    assert sum(each["max_workers"] for each in types.values()) >= config["max_workers"]


def test_workers_are_spot_and_the_head_is_not(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    spot = {name for name, each in types.items() if "InstanceMarketOptions" in each["node_config"]}
    assert spot == set(types) - {"head"}


def test_nothing_is_open_to_the_world(config: dict[str, Any], cloud: str) -> None:
    """Where a node type names no security group, Ray opens SSH to everybody."""
    for each in config["available_node_types"].values():
        assert each["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
        each["node_config"]["SecurityGroupIds"] = [cloud]
    bootstrap_aws(config)
    for group in boto3.client("ec2", "us-east-1").describe_security_groups()["SecurityGroups"]:
        assert "0.0.0.0/0" not in str(group["IpPermissions"])
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands and commands.count("RAY_AUTH_MODE=token") == 2


@pytest.mark.parametrize("name", ["head", "cpu", "llm-gpu", "train-gpu"])
def test_nodes_of_each_type_start_with_their_profile_and_no_keys(name: str, config: dict[str, Any], cloud: str) -> None:
    image = boto3.client("ec2", "us-east-1").describe_images()["Images"][0]["ImageId"]
    for each in config["available_node_types"].values():
        assert each["node_config"]["ImageId"] == f"resolve:ssm:{IMAGES}"  # EC2 resolves it, moto does not
        each["node_config"] |= {"SecurityGroupIds": [cloud], "ImageId": image}
    ready = bootstrap_aws(config)
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    chosen = ready["available_node_types"][name]["node_config"]
    provider.create_node(chosen, {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: name}, 1)
    (started,) = boto3.resource("ec2", "us-east-1").instances.all()
    profile = "rayriever-head" if name == "head" else "rayriever-node"
    assert started.instance_type == chosen["InstanceType"]
    assert started.iam_instance_profile["Arn"].endswith(profile)
    assert (started.instance_lifecycle == "spot") == (name != "head")


def test_no_secret_stands_in_the_file() -> None:
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "AWS_SECRET" not in text and "API_KEY=" not in text


def test_the_autoscaler_knows_what_a_node_will_have_before_there_is_one(config: dict[str, Any], cloud: str) -> None:
    """Work that asks for a label or for memory waits for ever where no node type promises it."""
    for each in config["available_node_types"].values():
        each["node_config"]["SecurityGroupIds"] = [cloud]
    ready = AWSNodeProvider.fillout_available_node_types_resources(bootstrap_aws(config))  # as `ray up` does
    types = ready["available_node_types"]
    for name in ("cpu", "llm-gpu", "train-gpu"):
        assert types[name]["labels"] == {NODE_GROUP: name}
        assert types[name]["resources"]["memory"] > 16e9
    assert "RAY_enable_autoscaler_v2=1" in " ".join(config["head_start_ray_commands"]), "the first knows no labels"
