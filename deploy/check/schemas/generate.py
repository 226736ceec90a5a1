"""Writes the schemas beside it, by which rendered charts are validated: of Kubernetes out of its module, of KEDA and the Prometheus
operator out of theirs.

Run it from deploy/check when a version changes: ``python3 schemas/generate.py``. Objects are closed, so that a field which a
type does not have is a fault; descriptions are left out.
"""

import json
import pathlib
import subprocess
import sys

import yaml

KUBERNETES = "k8s.io/kubernetes@v1.37.2"
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.94.0"

KINDS = {
    "api__v1": ["io.k8s.api.core.v1.ConfigMap", "io.k8s.api.core.v1.Service", "io.k8s.api.core.v1.ServiceAccount"],
    "apis__apps__v1": ["io.k8s.api.apps.v1.StatefulSet"],
    "apis__policy__v1": ["io.k8s.api.policy.v1.PodDisruptionBudget"],
    "apis__networking.k8s.io__v1": ["io.k8s.api.networking.v1.NetworkPolicy"],
    "apis__autoscaling__v2": ["io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler"],
}
CUSTOM = {
    KEDA: ["config/crd/bases/keda.sh_scaledobjects.yaml"],
    OPERATOR: [
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ],
}


def module(name: str) -> pathlib.Path:
    """The folder of a Go module, downloaded."""
    out = subprocess.run(["go", "mod", "download", "-json", name], check=True, capture_output=True, text=True, cwd="/")
    return pathlib.Path(json.loads(out.stdout)["Dir"])


def closed(schema: object) -> object:
    """A schema without descriptions, whose objects have no other fields than those named; null is as good as absent."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: closed(s) for name, s in value.items()}
        elif key == "$ref":
            out[key] = value.replace("#/components/schemas/", "#/definitions/")
        elif key == "allOf" and len(value) == 1:
            out.update(closed(value[0]))
        elif key not in ("description", "default", "example") and not key.startswith("x-"):
            out[key] = closed(value)
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if "properties" in out and "additionalProperties" not in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def quantity(name: str, schema: dict) -> dict:
    return {"type": ["string", "number"]} if name.endswith(".Quantity") else schema


def reach(name: str, definitions: dict, into: dict) -> None:
    """Copies a definition, and those that it refers to."""
    if name in into:
        return
    into[name] = quantity(name, closed(definitions[name]))
    for ref in refs(into[name]):
        reach(ref, definitions, into)


def refs(schema: object) -> list[str]:
    if isinstance(schema, list):
        return [r for s in schema for r in refs(s)]
    if isinstance(schema, dict):
        own = [schema["$ref"].rsplit("/", 1)[1]] if isinstance(schema.get("$ref"), str) else []
        return own + [r for s in schema.values() for r in refs(s)]
    return []


def write(name: str, schema: dict) -> None:
    text = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, separators=(",", ":"), sort_keys=True)
    (pathlib.Path(__file__).parent / name).write_text(text + "\n")


def main() -> int:
    for old in pathlib.Path(__file__).parent.glob("*.json"):
        old.unlink()
    kubernetes = module(KUBERNETES)
    for group, names in KINDS.items():
        body = json.loads((kubernetes / "api/openapi-spec/v3" / f"{group}_openapi.json").read_text())
        for name in names:
            definitions: dict = {}
            reach(name, body["components"]["schemas"], definitions)
            _, _, _, api, version, kind = name.split(".")
            prefix = "" if api == "core" else f"{api}-"
            write(f"{kind.lower()}-{prefix}{version}.json", {"$ref": f"#/definitions/{name}", "definitions": definitions})
    for name, files in CUSTOM.items():
        folder = module(name)
        for file in files:
            crd = yaml.safe_load((folder / file).read_text())["spec"]
            version = next(v for v in crd["versions"] if v["storage"])
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            write(f"{crd['names']['kind'].lower()}-{crd['group'].split('.')[0]}-{version['name']}.json", schema)
    return 0


sys.exit(main())
