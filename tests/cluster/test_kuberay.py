"""cluster/kuberay as kustomize, Kubernetes, KubeRay and Ray read it; no cluster is needed."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.recipe import Recipe
from serving.app import Arguments

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster/kuberay"
GROUPS = {"cpu": ["cpu"], "gpu": ["cpu", "llm-gpu", "train-gpu"]}
PART_OF, COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"
NODE_GROUP = "ray.io/node-group"
LOCAL = "config.kubernetes.io/local-config"
Object = dict[str, Any]


# --- kustomize: as much of it as the manifests use ---


def rendered(folder: Path) -> list[Object]:
    """The objects that `kubectl kustomize` makes of a folder. Refuses what it would have to guess."""
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects = [one for name in given.pop("resources") for one in _read(folder / name)]
    objects += [_config_map(folder, each) for each in given.pop("configMapGenerator", [])]
    for key, change in (("patches", _patch), ("labels", _label), ("images", _set_image), ("replacements", _replace)):
        for each in given.pop(key, []):
            change(objects, each)
    assert given.keys() <= {"apiVersion", "kind"}, f"{folder}: {[*given]}"
    return [one for one in objects if LOCAL not in one["metadata"].get("annotations", {})]


def _read(path: Path) -> list[Object]:
    if path.is_dir():
        return rendered(path)
    # JSON undoes YAML's anchors, which would otherwise be one object in several places
    found: list[Object] = json.loads(json.dumps(list(yaml.safe_load_all(path.read_text()))))
    return found


def _config_map(folder: Path, given: Object) -> Object:
    options = {key: given["options"][key] for key in ("labels", "annotations") if key in given["options"]}
    assert options.get("annotations") or given["options"]["disableNameSuffixHash"]
    content = {name: (folder / name).read_text() for name in given["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": given["name"], **options}, "data": content}


def _patch(objects: list[Object], given: Object) -> None:
    for one in _of_kind(objects, given["target"]):
        for step in yaml.safe_load(given["patch"]):
            assert step["op"] == "remove"
            *parents, last = _steps(step["path"].strip("/").replace("/", "."))
            del _parent(one, parents)[last]


def _label(objects: list[Object], given: Object) -> None:
    for one in objects:
        one["metadata"].setdefault("labels", {}).update(given["pairs"])


def _set_image(objects: list[Object], given: Object) -> None:
    for container in _containers(objects):
        if container["image"] == given["name"]:
            container["image"] = f"{given['newName']}:{given['newTag']}"


def _replace(objects: list[Object], given: Object) -> None:
    (source,) = _of_kind(objects, given["source"])
    *parents, last = _steps(given["source"]["fieldPath"])
    value = _parent(source, parents)[last]
    for target in given["targets"]:
        for one in _of_kind(objects, target["select"]):
            for path in target["fieldPaths"]:
                *parents, last = _steps(path)
                for parent in _parents(one, parents):
                    assert last in parent or target["options"]["create"]
                    parent[last] = copy.deepcopy(value)


def _of_kind(objects: list[Object], selected: Object) -> list[Object]:
    return [
        one
        for one in objects
        if one["kind"] == selected["kind"] and selected.get("name") in (None, one["metadata"]["name"])
    ]


def _steps(path: str) -> list[Any]:
    """`a.[b.c].0.*` as ["a", "b.c", 0, "*"]."""
    found = [bracketed or plain for bracketed, plain in re.findall(r"\[([^]]+)]|([^.[\]]+)", path)]
    return [int(step) if step.isdigit() else step for step in found]


def _parents(found: Any, steps: list[Any]) -> list[Any]:
    for at, step in enumerate(steps):
        if step == "*":
            return [parent for each in found for parent in _parents(each, steps[at + 1 :])]
        found = found[step]
    return [found]


def _parent(found: Any, steps: list[Any]) -> Any:
    (parent,) = _parents(found, steps)
    return parent


def _inside(found: Any, key: str) -> Iterator[Any]:
    """All that an object has under a key, at any depth."""
    if isinstance(found, dict):
        if key in found:
            yield found[key]
        for each in found.values():
            yield from _inside(each, key)
    elif isinstance(found, list):
        for each in found:
            yield from _inside(each, key)


def _containers(objects: Any) -> list[Object]:
    return [each for found in _inside(objects, "containers") for each in found]


@pytest.mark.parametrize("overlay", GROUPS)
def test_kustomize_renders_what_is_tested_here(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl: what is tested was not compared with what it would apply")
    version = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=False).stdout
    if not re.search(rb'"kustomizeVersion": "v[5-9]', version):
        pytest.skip("a kubectl without kustomize 5: what is tested was not compared with what it would apply")
    made = subprocess.run(["kubectl", "kustomize", FOLDER / "overlays" / overlay], capture_output=True, check=True)

    def in_order(objects: list[Object]) -> list[Object]:
        return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert in_order(list(yaml.safe_load_all(made.stdout))) == in_order(rendered(FOLDER / "overlays" / overlay))


# --- fields and types ---


def check_fields(one: Object) -> None:
    """Raise ValidationError where Kubernetes or KubeRay know no such field, or want another type."""
    if one["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        return
    of_kubernetes = f"kubernetes-json-schema/v{kubernetes_validate.latest_version()}-local-strict/_definitions.json"
    schemas = [
        json.loads((files("kubernetes_validate") / of_kubernetes).read_text()),
        yaml.safe_load((Path(__file__).parent / "kuberay_schema/ray.io_v1.yaml").read_text()),
    ]
    registry: Registry[Any] = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in schemas)
    schema = {"$ref": f"{schemas[1]['$id']}#/$defs/{one['kind']}"}
    Draft202012Validator(schema, registry=registry).validate(one)


@pytest.fixture(params=GROUPS, scope="module")
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(overlay: str) -> list[Object]:
    return rendered(FOLDER / "overlays" / overlay)


def the(kind: str, objects: list[Object]) -> Object:
    (one,) = _of_kind(objects, {"kind": kind})
    return one


def test_every_field_exists_and_has_its_type(objects: list[Object]) -> None:
    for one in objects:
        check_fields(one)


BROKEN = [
    ("RayCluster", "spec.workerGroupSpecs.0.idleTimeoutSecond", 120, "idleTimeoutSecond"),
    ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
    ("RayCluster", "spec.autoscalerOptions.version", "v3", "'v3' is not one of"),
    ("RayCluster", "spec.autoscalerOptions.resources.request", {}, "request"),
    ("RayCluster", "spec.networkPolicy", {"mode": "DenyAll"}, "networkPolicy"),
    ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.securityContexts", {}, "securityContexts"),
    ("RayCluster", "spec.workerGroupSpecs.0.template.spec.tolerations.0.key", 1, "1 is not of type"),
    ("RayJob", "spec.backofLimit", 3, "backofLimit"),
    ("RayJob", "spec.entrypointNumCpus", "1", "'1' is not of type 'number'"),
    ("RayJob", "spec.submitterPodTemplate.spec.restartPolicys", "Never", "restartPolicys"),
    ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", "16", "'16' is not of type 'integer'"),
    ("RayService", "spec.excludeHeadPodFromServeSvc", "true", "'true' is not of type 'boolean'"),
    ("RayService", "spec.rayClusterSpec", {}, "rayClusterSpec"),
    ("NetworkPolicy", "spec.ingres", [], "ingres"),
    ("PodDisruptionBudget", "spec.minAvailable", [1], "is not valid under any"),
    ("ServiceAccount", "automountServiceAccountToken", "false", "'false' is not of type"),
    ("ConfigMap", "data", "recipe", "'recipe' is not of type"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), BROKEN, ids=lambda each: str(each)[:60])
def test_a_mistake_in_a_manifest_is_seen(kind: str, path: str, value: Any, message: str) -> None:
    """A field that does not exist is dropped by the API server in silence, unless it is asked to be strict."""
    broken = _of_kind(rendered(FOLDER / "overlays/cpu"), {"kind": kind})[0]
    *parents, last = _steps(path)
    _parent(broken, parents)[last] = value
    with pytest.raises(ValidationError, match=re.escape(message)):
        check_fields(broken)


# --- what the manifests are to be ---


def test_the_overlays_differ_in_workers(overlay: str, objects: list[Object]) -> None:
    cluster = the("RayCluster", objects)
    assert [each["groupName"] for each in cluster["spec"]["workerGroupSpecs"]] == GROUPS[overlay]


def test_job_and_service_have_the_nodes_of_the_cluster(objects: list[Object]) -> None:
    cluster, job, service = (the(kind, objects) for kind in ("RayCluster", "RayJob", "RayService"))
    as_job, as_service = (
        json.loads(json.dumps(cluster["spec"]).replace(f'"{COMPONENT}": "cluster"', f'"{COMPONENT}": "{component}"'))
        for component in ("job", "serve")
    )
    assert job["spec"]["rayClusterSpec"] == as_job != cluster["spec"]
    assert service["spec"]["rayClusterConfig"] == as_service


def test_each_use_is_selected_with_what_it_needs(objects: list[Object]) -> None:
    """`kubectl apply -l` leaves out what has no label, in silence."""
    by_component: dict[str, set[str]] = {}
    for one in objects:
        labels = one["metadata"]["labels"]
        assert labels[PART_OF] == "rayriever"
        by_component.setdefault(labels[COMPONENT], set()).add(one["kind"])
    assert by_component == {
        "shared": {"ServiceAccount", "NetworkPolicy"},
        "cluster": {"RayCluster", "PodDisruptionBudget"},
        "job": {"RayJob", "PodDisruptionBudget", "ConfigMap"},
        "serve": {"RayService", "PodDisruptionBudget"},
    }


def test_ray_is_of_one_version(objects: list[Object]) -> None:
    (pinned,) = re.findall(r"(?m)^ray==(.+)$", (ROOT / "constraints.txt").read_text())
    assert set(_inside(objects, "rayVersion")) == {pinned}
    assert f"FROM rayproject/ray:{pinned}-" in (FOLDER / "Dockerfile").read_text()


def test_rays_autoscaler_reads_the_nodes(overlay: str, objects: list[Object]) -> None:
    """It starts nodes for a label only where the group says that it will have it."""
    cluster = the("RayCluster", objects)
    cluster["metadata"]["namespace"] = "default"  # as Kubernetes adds
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0, "work on the head can end the cluster"
    assert types.keys() == {"headgroup", *GROUPS[overlay]}
    for name in GROUPS[overlay]:
        assert types[name]["labels"] == {NODE_GROUP: name}
        assert types[name]["max_workers"] > types[name]["min_workers"] == 0
        assert re.fullmatch("[a-z0-9-]+", name), "it becomes part of a pod's name"
        assert types[name]["resources"].get("GPU") == {"llm-gpu": 1, "train-gpu": 4}.get(name)
        assert types[name].get("idle_timeout_s") == (None if name == "cpu" else 120)


def test_nothing_gets_more_memory_than_it_asked_for(objects: list[Object]) -> None:
    """Ray counts on what the limit says, the scheduler on the request: between the two, pods are killed."""
    containers = _containers(objects)
    asked = [each["resources"] for each in [*containers, *_inside(objects, "autoscalerOptions")]]
    assert len(asked) == 3 * (2 + len(the("RayCluster", objects)["spec"]["workerGroupSpecs"])) + 1
    for each in asked:
        assert each["requests"] == each["limits"] and {"cpu", "memory"} <= each["limits"].keys()


def test_pods_may_do_nothing_but_their_work(objects: list[Object]) -> None:
    """What Pod Security calls restricted."""
    for one in [*_containers(objects), *_inside(objects, "autoscalerOptions")]:
        assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert not {"env", "livenessProbe", "readinessProbe", "ports"} & one.keys()
    assert the("ServiceAccount", objects)["automountServiceAccountToken"] is False
    for template in [*_inside(objects, "template"), *_inside(objects, "submitterPodTemplate")]:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all({"emptyDir", "configMap"} & volume.keys() for volume in pod.get("volumes", []))
    heads = [each["template"]["spec"] for each in _inside(objects, "headGroupSpec")]
    workers = [each["template"]["spec"] for groups in _inside(objects, "workerGroupSpecs") for each in groups]
    assert all(pod["automountServiceAccountToken"] for pod in heads)
    assert not any(pod.get("automountServiceAccountToken") for pod in workers)
    assert not any("tolerations" in pod for pod in heads) and all(pod["tolerations"] for pod in workers)


def test_secrets_are_named_and_not_told(objects: list[Object]) -> None:
    assert not _of_kind(objects, {"kind": "Secret"})
    assert {json.dumps(each) for each in _inside(objects, "envFrom")} == {
        json.dumps([{"secretRef": {"name": "rayriever-keys", "optional": True}}])
    }
    for path in FOLDER.rglob("*"):
        assert path.is_dir() or not re.search(r"AWS_SECRET|(KEY|TOKEN|PASSWORD)S?['\"]?\s*[:=]", path.read_text())


def test_only_the_operator_and_clients_reach_a_port(objects: list[Object]) -> None:
    policy = the("NetworkPolicy", objects)["spec"]
    ours = {"matchLabels": {PART_OF: "rayriever"}}
    assert policy["podSelector"] == ours and policy["policyTypes"] == ["Ingress"]
    for template in [*_inside(objects, "template"), *_inside(objects, "submitterPodTemplate")]:
        assert template["metadata"]["labels"][PART_OF] == "rayriever"
    among_us, operator, clients = policy["ingress"]
    assert among_us == {"from": [{"podSelector": ours}]}
    assert operator["ports"] == [{"port": 8265}] and len(operator["from"]) == 1
    assert clients["ports"] == [{"port": 8000}] and all("rayriever-client" in str(peer) for peer in clients["from"])


def test_budgets_hold_the_pods_of_their_own_use(objects: list[Object]) -> None:
    """A budget whose labels no pod has protects nothing, in silence."""
    budgets = _of_kind(objects, {"kind": "PodDisruptionBudget"})
    of_kuberay = {"ray.io/node-type": "head", "ray.io/serve": "true"}
    assert len(budgets) == 4
    for one in budgets:
        wanted = one["spec"]["selector"]["matchLabels"]
        (by_kuberay,) = wanted.keys() - {COMPONENT}
        assert wanted[COMPONENT] == one["metadata"]["labels"][COMPONENT]
        assert wanted[by_kuberay] == of_kuberay[by_kuberay]
    for kind, component in (("RayCluster", "cluster"), ("RayJob", "job"), ("RayService", "serve")):
        templates = list(_inside(the(kind, objects), "template"))
        assert {each["metadata"]["labels"][COMPONENT] for each in templates} == {component}


def test_the_service_is_one_that_this_version_would_print(objects: list[Object], tmp_path: Path) -> None:
    content = yaml.safe_load(the("RayService", objects)["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(content)
    arguments = Arguments.model_validate(content["applications"][0]["args"])
    recipe = Recipe.model_validate(arguments.recipe)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(arguments.recipe))
    printed = yaml.safe_load(CliRunner().invoke(app, ["serve", str(tmp_path / "recipe.yaml"), "--config"]).stdout)
    printed["applications"][0]["args"] = content["applications"][0]["args"]
    assert content == printed
    assert recipe.serve.host == "0.0.0.0" and not arguments.insecure, "without API keys it must not start"
    assert recipe.serve.reserve_cpus, "replicas without CPUs would be put where there are none"


def test_the_job_runs_a_recipe_for_these_nodes(overlay: str, objects: list[Object]) -> None:
    (content,) = the("ConfigMap", objects)["data"].values()
    recipe = Recipe.model_validate(yaml.safe_load(content))
    assert set(_inside(recipe.model_dump(), NODE_GROUP)) <= {*GROUPS[overlay]}
    assert (recipe.llm.engine == "vllm") == (overlay == "gpu")
    served = yaml.safe_load(the("RayService", objects)["spec"]["serveConfigV2"])
    assert served["applications"][0]["args"]["recipe"]["workspace"] == recipe.workspace
    job = the("RayJob", objects)["spec"]
    (mounted,) = {
        mount["mountPath"]
        for mounts in _inside(job["rayClusterSpec"], "volumeMounts")
        for mount in mounts
        if mount["name"] == "recipe"
    }
    assert job["entrypoint"] == f"python -m pipeline.cli run {mounted}/recipe.yaml"
