"""Where every file of a tree comes from is in tree.json; it changes nothing that is measured."""

import json

from assay.builder import tree
from assay.builder.build import prepare
from assay.builder.compose import Inputs
from assay.builder.wheels import wheel_finder


def test_every_file_of_a_tree_says_where_it_comes_from(workshop, log_policy, ca_pem):
    built = prepare(
        workshop.recipe,
        workshop.source,
        Inputs(log_policy, ca_pem),
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
    )
    listed = json.loads(built.files["tree.json"])["files"]
    info = "app/packages/demo_pkg-1.0.dist-info/METADATA"
    assert {path: item.get("from") for path, item in listed.items() if "dist-info" not in path} == {
        "app/llm-ca.pem": "input ca",
        "app/log-policy.txt": "input log_policy",
        "app/main.py": "recipe file main.py",
        "app/packages/demo_pkg/__init__.py": "wheel demo-pkg 1.0",
        "app/pkg/__init__.py": "source lib/__init__.py",
        "app/pkg/a/x.py": "source lib/a/x.py",
        "app/pkg/a-b.py": "source lib/a-b.py",
        "app/pkg/a.py": "source lib/a.py",
        "app/top.py": "source top.py",
    }
    assert listed[info]["from"] == "wheel demo-pkg 1.0"


def test_a_file_without_a_known_origin_has_none():
    plain = json.loads(tree.tree_json(tree.measure_files({"a": b"1"}), {}, origins={"b": "source b"}))
    assert plain["files"]["a"].keys() == {"sha256", "size"}
