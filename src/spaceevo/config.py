"""The recipe: everything that a run depends on, as one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from spaceevo import strict_yaml
from spaceevo.errors import RecipeError
from spaceevo.settings import Settings, parse

MAX_NAME = 100
MAX_SEED = 2**63 - 1


class DataSettings(Settings):
    """The data set."""

    name: str = Field("procedural", description="A data set: procedural, digits, folder, webdataset or huggingface.")
    image_size: int = Field(40, ge=16, le=1024, description="Images are brought to this size, in pixels.")
    options: dict[str, Any] = Field({}, description="Settings of the data set, for example path: for folder.")
    flip: bool = Field(True, description="Mirror training images at random; not for digits or text.")
    shift: int = Field(3, ge=0, le=64, description="Shift training images at random by up to this many pixels.")
    crop_area: float = Field(
        1.0, gt=0, le=1, description="Random resized crop: least share of the image's area; 1: none, 0.08 is strong."
    )
    crop_ratio: float = Field(1.33, ge=1, le=4, description="Most that a crop is wider than high, or the reverse.")
    rand_augment: int = Field(0, ge=0, le=8, description="RandAugment: operations per training image; usual are 2.")
    rand_strength: float = Field(0.3, ge=0, le=1, description="How strong they are, as a share of the strongest.")
    mixup: float = Field(
        0.0, ge=0, le=8, description="Mix images and labels: parameter of the Beta distribution; 0: off."
    )
    cutmix: float = Field(
        0.0, ge=0, le=8, description="Put a box of another image into each: likewise; with mixup, batches take turns."
    )
    search_share: float = Field(
        0.15, gt=0, lt=0.9, description="Share of the training images held out for the subnet search."
    )


class TargetSettings(Settings):
    """The device and the runtime on it."""

    name: str = Field("onnxruntime@local", description="runtime@transport or runtime@transport:device.")
    threads: int = Field(1, ge=1, le=256, description="Threads that the runtime may use.")
    cores: tuple[Annotated[int, Field(ge=0, le=65_535)], ...] = Field(
        (), description="Logical cores that it is pinned to; none: any."
    )


Width = Annotated[int, Field(ge=1, le=2048)]


class StudySettings(Settings):
    """On-device quantization analysis."""

    widths: tuple[Width, ...] = Field((16, 32, 64, 96), min_length=1, description="Channel counts to measure.")
    sizes: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        (6, 12, 24), min_length=1, description="Feature-map sizes to measure."
    )
    conv_widths: tuple[Width, ...] = Field(
        (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256),
        description="Channel counts of 1x1 convolutions to measure beside them, at the middle size.",
    )


class PredictSettings(Settings):
    """The INT8 latency predictor."""

    num_fit: int = Field(120, ge=10, le=100_000, description="Networks measured to fit the predictor.")
    num_unseen: int = Field(30, ge=5, le=100_000, description="Networks measured to judge it.")


class TrainingSettings(Settings):
    """One quantization-aware training: an FP32 phase, then an LSQ+ phase."""

    epochs_fp32: float = Field(10, gt=0, le=10_000, description="Epochs in FP32.")
    epochs_int8: float = Field(2, ge=0, le=10_000, description="Epochs of LSQ+ after it.")
    batch_size: int = Field(64, ge=2, le=65_536, description="Images per step.")
    lr: float = Field(0.3, gt=0, le=100, description="Peak learning rate per 256 images (warm-up, cosine).")
    lr_int8: float = Field(0.03, gt=0, le=100, description="Peak learning rate of the LSQ+ phase per 256 images.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="AdamW wants rates of about a hundredth.")
    weight_decay: float = Field(1e-4, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the classifier's input, for the largest subnet.")
    branch_gain: float = Field(
        1.0, gt=0, le=10, description="Initial gamma of the batch norms that end residual branches; 2 to learn sooner."
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the average of the weights that a phase ends with; 0: its last weights."
    )
    accumulation: int = Field(
        1, ge=1, le=1024, description="Parts that a step's batch is computed in, one after the other, in less memory."
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Of convolutions and linear layers.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains; auto takes a GPU if any.")
    tensorboard: bool = Field(False, description="Log every step for TensorBoard, which must be installed.")


class SupernetSettings(TrainingSettings):
    """Quantized-for-all training."""

    epochs_int8: float = Field(2, gt=0, le=10_000, description="Epochs of LSQ+ after it.")
    large_first: float = Field(
        0.3, ge=0, lt=1, description="Share of the FP32 epochs, at their start, that train the largest subnet alone."
    )
    num_random: int = Field(2, ge=0, le=16, description="Random subnets per step beside a large and a small one.")
    subnets: Literal["within-budgets", "all"] = Field(
        "within-budgets",
        description="Which are trained: those that meet the largest latency budget, or all of the space.",
    )
    distillation: Literal["kl", "alpha"] = Field(
        "kl", description="How the others learn from the largest: KL, or adaptive alpha-divergence."
    )
    weight_scales: Literal["per-channel", "per-tensor"] = Field(
        "per-channel", description="Learned scales of a weight: one per output channel, or one for all of them."
    )

    @property
    def per_channel(self) -> bool:
        """Whether each output channel of a weight learns a scale of its own."""
        return self.weight_scales == "per-channel"


class TeacherSettings(TrainingSettings):
    """Training of the teacher, which serves in FP32."""

    epochs_int8: float = Field(0, ge=0, le=10_000, description="Epochs of LSQ+ after it.")


class BlocksSettings(Settings):
    """Block-wise distillation and the block table."""

    teacher: TeacherSettings = TeacherSettings()
    teacher_network: str = Field(
        "",
        description="Instead of a teacher trained here: package.module:function, zoo:NAME:WEIGHTS, timm:NAME or "
        "huggingface:NAME; see docs/train.md.",
    )
    num_images: int = Field(1500, ge=32, le=10_000_000, description="Training images whose feature maps are distilled.")
    steps_fp32: int = Field(60, ge=1, le=1_000_000, description="Steps per (stage, block type) in FP32.")
    steps_int8: int = Field(20, ge=1, le=1_000_000, description="Steps of LSQ+ after it.")
    batch_size: int = Field(64, ge=2, le=65_536)
    lr: float = Field(0.003, gt=0, le=100, description="Peak learning rate (AdamW, cosine).")
    substages: int = Field(
        24, ge=2, le=10_000, description="Sub-stages sampled per (stage, block type, window, resolution)."
    )
    score_images: int = Field(128, ge=16, le=1_000_000, description="Images on which a sub-stage is scored.")


class SpaceSettings(Settings):
    """Evolution of the search space."""

    num_spaces: int = Field(
        20_000, ge=1, le=100_000_000, description="Spaces to score; a hyperspace with no more is scored completely."
    )
    population_size: int = Field(500, ge=2, le=1_000_000)
    tournament_size: int = Field(125, ge=1, le=1_000_000)
    tolerance: float = Field(0.01, ge=0, lt=1, description="Relative distance from the best that counts as equal.")
    num_tried: int = Field(
        1,
        ge=1,
        le=100,
        description="Best spaces of different block types, within tolerance, of which a network by each budget is "
        "trained; for the most accurate, with it so many of other widths. The most accurate is taken. 1: none.",
    )
    tried_share: float = Field(0.5, gt=0, le=1, description="How long: share of the epochs of a network trained alone.")


class SubnetsSettings(Settings):
    """Evolutionary subnet search."""

    method: Literal["per-budget", "pareto"] = Field(
        "per-budget", description="One search per budget, or one for the whole Pareto front up to the largest."
    )
    population_size: int = Field(20, ge=2, le=100_000, description="Per budget, as what follows.")
    num_generations: int = Field(6, ge=0, le=100_000)
    num_mutations: int = Field(4, ge=0, le=100_000)
    num_crossovers: int = Field(4, ge=0, le=100_000)
    num_candidates: int = Field(
        8, ge=1, le=1000, description="Candidates per evaluated subnet, ranked by predicted accuracy; 1: no ranking."
    )
    limits: dict[str, Annotated[float, Field(gt=0, le=1e9)]] = Field(
        {}, description="Largest values of other metrics, for example {size-mib: 2.5}; see docs/measure.md."
    )
    latency_window: float = Field(0.15, gt=0, lt=1, description="Share below the budget that is searched first.")
    num_images: int = Field(600, ge=16, le=10_000_000, description="Held-out training images per evaluation.")
    recalibration_batches: int = Field(4, ge=1, le=100_000, description="Batches of 128 that recalibrate batch norm.")


class FinetuneSettings(Settings):
    """Training of each found subnet alone."""

    epochs: float = Field(
        0, ge=0, le=10_000, description="Epochs of LSQ+ from what the supernet left, at the supernet's rate; 0: none."
    )


class ExportSettings(Settings):
    """Export, verification and measuring."""

    min_agreement: float = Field(0.995, ge=0, le=1, description="Least top-1 agreement with the integer reference.")
    license: str = Field("", max_length=200, description="Of the models, as SPDX names it; told in files and card.")


class CompareSettings(Settings):
    """What `spaceevo compare` compares the found space with."""

    handmade: tuple[str, ...] = Field(
        ("mobilenetv3micro", "proxylessmicro", "resnetmicro"), description="Presets of hand-made spaces."
    )
    num_random: int = Field(2, ge=0, le=16, description="Random spaces of the hyperspace.")
    seeds: tuple[Annotated[int, Field(ge=0, le=MAX_SEED)], ...] = Field(
        (0, 1, 2), min_length=1, max_length=100, description="Each space is trained and searched with each."
    )
    num_fit: int = Field(
        24, ge=4, le=10_000, description="Networks of each hand-made space measured for the predictor."
    )

    @field_validator("handmade", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("Name each of them once")
        return values


class EngineSettings(Settings):
    """Where independent jobs run; results depend on no key of it but `trainers`."""

    name: str = Field(
        "local", description="local: processes of this machine; ray: a cluster; serial: one job at a time."
    )
    address: str = Field("", description="Of a running Ray cluster; without it, one is started on this machine.")
    workers: int = Field(0, ge=0, le=4096, description="Cores of this machine to use; 0: all.")
    gpus: float = Field(0.0, ge=0, le=64, description="With ray: GPUs, or share of one, for each network that trains.")
    trainers: int = Field(
        0, ge=0, le=4096, description="With ray: processes, at most, that train the supernet; 0: the one of the run."
    )
    trainer_cpus: int = Field(1, ge=1, le=1024, description="Cores of each of them.")
    device: str = Field("", description="With ray: custom resource of the machine that measures; none: this machine.")


BudgetMs = Annotated[float, Field(gt=0, le=1e6, title="milliseconds")]


class Recipe(Settings):
    """A complete run."""

    name: str = Field(
        "run",
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}$",
        title=f"a letter or digit, then letters, digits, `.`, `_` or `-`, at most {MAX_NAME} in all",
        description="Names the run folder.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)
    hyperspace: str = Field("micro", description="A preset: micro, mobilew or onnxw.")
    budgets_ms: Literal["auto"] | Annotated[tuple[BudgetMs, ...], Field(min_length=1)] = Field(
        "auto",
        examples=[[3, 6]],
        description="INT8 latency budgets in ms; auto takes two from the middle of what the target shows.",
    )
    data: DataSettings = DataSettings()
    target: TargetSettings = TargetSettings()
    engine: EngineSettings = EngineSettings()
    study: StudySettings = StudySettings()
    predict: PredictSettings = PredictSettings()
    blocks: BlocksSettings = BlocksSettings()
    space: SpaceSettings = SpaceSettings()
    supernet: SupernetSettings = SupernetSettings()
    subnets: SubnetsSettings = SubnetsSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    export: ExportSettings = ExportSettings()
    compare: CompareSettings = CompareSettings()

    @field_validator("budgets_ms", mode="before")
    @classmethod
    def _one_or_several(cls, budgets: Any) -> Any:
        if isinstance(budgets, bool) or not isinstance(budgets, (int, float, str)):
            return budgets
        try:
            return (float(budgets),)
        except (ValueError, OverflowError):
            return budgets

    @field_validator("budgets_ms")
    @classmethod
    def _ascending(cls, budgets: Literal["auto"] | tuple[float, ...]) -> Literal["auto"] | tuple[float, ...]:
        return budgets if budgets == "auto" else tuple(sorted(set(budgets)))


def num_held_out(num_images: int, search_share: float) -> int:
    """How many training images are held out for the subnet search, at least 1.

    Args:
        num_images: All training images.
        search_share: `DataSettings.search_share`.
    """
    return max(1, round(search_share * num_images))


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: The file is missing, is not YAML, has a key twice, an unknown key (the nearest valid one is named)
            or a value out of range.
    """
    document = strict_yaml.read(path)
    content = document.content
    if not isinstance(content, dict):
        kind = {type(None): "nothing", list: "a list"}.get(type(content), "a single value")
        raise RecipeError(
            f"The recipe {path} has no keys",
            found=f"It holds {kind}",
            remedy="Write at least one, for example `name: my-run`, or have one written: spaceevo init my.yaml",
        )
    return parse(Recipe, {"name": run_name(path.stem), **content}, f"The recipe {path}", document)


def run_name(stem: str) -> str:
    """The name of a run that a file's name stands for.

    >>> run_name("my run")
    'my-run'
    """
    allowed = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return allowed.lstrip("._-")[:MAX_NAME] or "run"
