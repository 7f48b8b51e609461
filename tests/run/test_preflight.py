"""What a recipe names is checked before anything is written; any recipe ends in one paragraph or passes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from spaceevo import plugins
from spaceevo.artifacts import RunFolder
from spaceevo.config import Recipe, load_recipe
from spaceevo.errors import SpaceEvoError, TrainingError
from spaceevo.run import preflight
from spaceevo.run.context import Context
from spaceevo.run.stage import load_stage
from spaceevo.settings import Settings

STAGES = ("study", "predict", "blocks", "space", "supernet", "subnets", "finetune", "baselines", "export", "compare")
FAKE = {"target": {"name": "onnxruntime@fake:machine=x86_64"}, "hyperspace": "tiny", "data": {"name": "digits"}}


@pytest.fixture(autouse=True)
def _plugin(tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    yield
    plugins._locations.cache_clear()


def _checked(folder: Path, content: dict[str, Any], stages: tuple[str, ...] = STAGES) -> Context:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(FAKE | content))
    context = Context(load_recipe(path), RunFolder(folder / "run"))
    wanted = [load_stage(name) for name in stages]
    preflight.check_names(context, wanted)
    preflight.check_here(context, wanted)
    preflight.check_elsewhere(context, wanted)
    return context


WRONG = [
    ("predict", {"hyperspace": "tinny"}, "Did you mean 'tiny'?"),
    ("predict", {"target": {"name": "onnxruntime@mars"}}, "no measure.transports plug-in named 'mars'"),
    ("predict", {"data": {"name": "digits", "options": {"val_share": 2}}}, "'val_share'. It is 2. Write a number"),
    ("predict", {"data": {"name": "folder", "options": {"path": "/nowhere"}}}, "/nowhere is not there"),
    ("predict", {"engine": {"name": "rey"}}, "Did you mean 'ray'?"),
    ("predict", {"engine": {"address": "a:1"}}, "engine.address is 'a:1'"),
    ("subnets", {"subnets": {"limits": {"size-mb": 1}}}, "Did you mean 'size-mib'?"),
    ("compare", {"compare": {"handmade": ["resnet"]}}, "Did you mean 'resnet50'?"),
    ("compare", {"compare": {"handmade": ["micro"]}}, "leaves a choice of spaces"),
    ("supernet", {"supernet": {"device": "cuda"}}, "device: cuda"),
    ("supernet", {"supernet": {"tensorboard": True}}, "tensorboard: true"),
    ("baselines", {"supernet": {"device": "cuda"}}, "device: cuda"),
    ("blocks", {"blocks": {"teacher": {"device": "cuda"}}}, "device: cuda"),
    ("blocks", {"blocks": {"teacher_network": "nowhere:teacher"}}, "'nowhere:teacher' cannot be imported"),
    ("blocks", {"blocks": {"teacher_network": "zoo:MobileNetV2:/nowhere"}}, "/nowhere"),
]


@pytest.mark.parametrize(("stage", "content", "told"), WRONG)
def test_what_is_missing_is_told_by_the_stages_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, content: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(SpaceEvoError) as caught:
        _checked(tmp_path, content, (stage,))
    assert told in str(caught.value)
    if stage != "predict":
        _checked(tmp_path, content, ("study", "predict"))
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


def test_a_metric_that_the_target_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"subnets": {"limits": {"energy-mj": 1, "activation-memory-mib": 1}}}
    _checked(tmp_path, content, ("subnets",))
    monkeypatch.setattr("spaceevo.measure.transports.fake._Connection.energy_uj", lambda self: 1.0)
    with pytest.raises(SpaceEvoError, match="energy counter"):
        _checked(tmp_path, content, ("subnets",))


def test_settings_that_ask_for_more_images_than_there_are(tmp_path: Path) -> None:
    content = {"data": {"name": "digits", "image_size": 20}, "blocks": {"num_images": 9000, "score_images": 100}}
    context = _checked(tmp_path, content)
    notes = preflight.check_data(context, [load_stage(name) for name in STAGES])
    total = len(context.data.train_labels)
    left = total - round(0.15 * total)
    assert notes[0] == f"blocks.num_images is 9000: it is all {left - 100} training images that are left."
    assert "data.image_size is 20, and tiny reads up to 24 pixels: smaller images are enlarged." in notes
    assert preflight.check_data(context, [load_stage("study"), load_stage("predict")]) == []
    few = context.recipe.model_copy(update={"blocks": context.recipe.blocks.model_copy(update={"score_images": 9000})})
    with pytest.raises(TrainingError, match=r"blocks\.score_images"):
        preflight.check_data(Context(few, context.run), [load_stage(name) for name in STAGES])


def test_a_run_that_is_refused_leaves_nothing(cli: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    for content in ({"blocks": {"teacher_network": "nowhere:teacher"}}, {"subnets": {"limits": {"x": 1}}}):
        recipe.write_text(yaml.safe_dump(FAKE | content))
        done = cli("run", recipe, "--out", tmp_path / "run")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_finished_stages_need_nothing_any_more(
    cli: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.copy(tmp_path / "run")

    def fail(*_: object) -> None:
        raise TrainingError("Asked")

    monkeypatch.setattr(preflight, "check_training", fail)
    assert cli("run", tiny.recipe, "--out", folder).returncode == 0
    content = yaml.safe_load(tiny.recipe.read_text())
    content["supernet"]["lr"] = 0.11
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert "Asked" in cli("run", tmp_path / "tiny.yaml", "--out", folder).stderr


WORDS = st.sampled_from(
    ["auto", "cuda", "cpu", "", "~", "null", "yes", "off", "1:30", "0x10", "1e3", ".inf", "-.inf", ".nan",
     "2024-01-01", "3ms", "[]", "{}", "[[3]]", "{a: b}", "&a [*a]", "*b", "<<", "!!int x", "!!python/name:os.system",
     "|", "'", "[", "%", "micro", "resnet50", "digits", "procedural", "folder", "size-mib", "tiny", "zoo:ResNet-18:x",
     "os:getcwd", "timm:x"]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25).map(str), st.floats().map(str), st.sampled_from(["0", "-1", "3", "0.5", "1e400"])
)
VALUES = st.one_of(
    WORDS, NUMBERS, st.lists(NUMBERS, max_size=3).map(lambda values: f"[{', '.join(values)}]"), st.text(max_size=8)
)
SECTIONS = {name: list(type(value).model_fields) for name, value in Recipe() if isinstance(value, Settings)}
FREE = st.sampled_from(["options", "path", "lr", "<<", "1", "energy-mj", "size-mib"])


@st.composite
def _lines(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*Recipe.model_fields, "nmae"]))
    # Else a target is looked for, or a cluster started
    if name in ("target", "engine") or name not in SECTIONS or draw(st.booleans()):
        return f"{name}: {draw(VALUES)}" if name not in ("target", "engine") else f"{name}: {{threads: {draw(VALUES)}}}"
    keys = draw(st.lists(st.one_of(st.sampled_from(SECTIONS[name]), FREE), max_size=4))
    return f"{name}: {{{', '.join(f'{key}: {draw(VALUES)}' for key in keys)}}}"


@settings(
    max_examples=100, derandomize=True, deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(_lines(), max_size=4))
def test_any_recipe_is_told_in_one_paragraph_or_passes(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "any.yaml"
    own = "" if any(line.startswith("target") for line in lines) else f"target: {{name: '{FAKE['target']['name']}'}}"  # type: ignore[index]
    path.write_text("\n".join([own, *lines]), encoding="utf-8", errors="surrogatepass")
    try:
        context = Context(load_recipe(path), RunFolder(tmp_path / "run"))
        wanted = [load_stage(name) for name in STAGES]
        preflight.check_names(context, wanted)
        preflight.check_here(context, wanted)
        preflight.check_elsewhere(context, wanted)
    except SpaceEvoError as error:
        told = str(error)
        assert "\n" not in told
        assert len(told) < 1500
    assert not (tmp_path / "run").exists()
