"""The verb `zoo`."""

import json

from spaceevo.spaces.zoo import zoo


def test_lists_every_network(cli):
    done = cli("zoo", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(zoo())
    assert all(row["macs"] > 0 and row["activation_bytes_int8"] > 0 and row["source"] for row in rows)


def test_tells_sources_and_notes(cli):
    done = cli("zoo")
    assert done.returncode == 0, done.stderr
    assert "ResNet-50: Stride on the 3x3 convolution" in done.stdout
