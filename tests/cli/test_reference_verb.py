"""The verb `reference check`: lines, exit codes and bad folders."""

import json


def test_a_folder_that_holds(cli, tmp_path):
    (tmp_path / "published.json").write_text(json.dumps({"spaces": {"one": "onnxw-151122-023231"}, "models": {}}))
    done = cli("reference", "check", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ok   published.json" in done.stdout
    assert "1 of 1 hold." in done.stdout


def test_a_folder_that_falls_short(cli, tmp_path):
    (tmp_path / "published.json").write_text(json.dumps({"spaces": {"one": "onnxw-951122-023231"}, "models": {}}))
    done = cli("reference", "check", tmp_path, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert not result["passed"]
    assert result["findings"][0]["name"] == "published.json"
    assert "fall short" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_reference_data_is_one_paragraph(cli, tmp_path):
    done = cli("reference", "check", tmp_path / "missing")
    assert done.returncode == 1
    assert "No such folder" in done.stderr
    assert "Traceback" not in done.stderr
