"""One self-contained HTML file: plotly.js is in it once, and nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spaceevo.records import (
    ClassScores,
    Comparison,
    DistilledCell,
    ModelResult,
    PredictorAssessment,
    SpaceSearchResult,
    StageChoice,
    Study,
    Summary,
    TargetDescription,
)
from spaceevo.report import comparison as compared, figures, words
from spaceevo.report.companions import predict_file, predict_text
from spaceevo.report.data import ReportData
from spaceevo.report.pictures import picture_url
from spaceevo.train.datasets import told_passed_over

#: A choice decides where the best space without it scores lower by this share.
DECIDES = 0.002
MOST_CLASSES, SHOWN_CONFUSIONS = 20, 6


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of models: a quantity and its value per model."""

    title: str
    values: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of the table of models that belong together."""

    title: str
    rows: tuple[Row, ...]


def render(data: ReportData) -> str:
    """The report of a run.

    Links to model files are relative to the run folder, so the report belongs there.

    Raises:
        EncodingError: A space of the search is not one of the hyperspace.
    """
    plots = _Plots()
    summary = data.summary
    model = words.headline_model(summary.models)
    named = words.named_models(summary)
    classes = next((one for one in data.classes if model and one.int8_file == model.int8_file), None)
    return _page(
        "report.html.j2",
        plots,
        data=data,
        study=data.study,
        assessment=data.assessment,
        summary=summary,
        passed_over=told_passed_over(summary.passed_over),
        headline=words.headline(summary),
        headline_budget=words.headline_budget(len(summary.models)),
        model=model,
        baseline=words.baseline_for(model, summary.baselines) if model else None,
        notes=words.notes(summary, data.cells),
        named=named,
        groups=_model_groups([model for model, _ in named], summary),
        operators=figures.styles(figures.study_operators(data.study)),
        block_types=figures.styles(figures.block_type_names(data.hyperspace)),
        cells=_cell_matrix(data.cells),
        space=_space_rows(data),
        decides=DECIDES,
        extent=words.extent_of_search(data.search),
        deciding=[(c.stage, words.choice_name(c), c.share, c.loss_without) for c in _deciding(data.search)],
        why_w_qmax=words.why_w_qmax(summary.target),
        program=predict_text(summary.target.runtime, model.preprocessing) if model and model.preprocessing else None,
        program_file=predict_file(summary.target.runtime),
        **_class_values(data, classes),
        plots=_place_plots(data, plots) | {"confusion": _confusion_plots(classes, plots)},
    )


def _class_values(data: ReportData, classes: ClassScores | None) -> dict[str, Any]:
    """What the section on classes shows of the model that the headline is about."""
    if classes is None:
        return {"classes": None}
    with_images = [one for one in classes.classes if one.recall_int8 is not None]
    shown = [one for one in classes.confusions if all(number in data.examples for number in one.examples)]
    return {
        "classes": classes,
        "class_cost": words.class_cost(classes),
        "worst_classes": sorted(with_images, key=lambda one: one.recall_int8 or 0.0)[:MOST_CLASSES],
        "confusions": [
            {**one.model_dump(), "urls": [picture_url(data.examples[number]) for number in one.examples]}
            for one in shown[:SHOWN_CONFUSIONS]
        ],
    }


def _confusion_plots(classes: ClassScores | None, plots: _Plots) -> list[tuple[str, Markup]]:
    if classes is None or classes.matrix_int8 is None or classes.matrix_fp32 is None:
        return []
    names = [one.name for one in classes.classes]
    matrices = {"INT8": classes.matrix_int8, "FP32": classes.matrix_fp32}
    return plots.panels({title: figures.plot_confusion(one, names) for title, one in matrices.items()}, "confusion")


def render_target(
    target: TargetDescription, study: Study | None = None, assessment: PredictorAssessment | None = None
) -> str:
    """What is known about a target: what gains from INT8 there, and whether its latencies can be predicted."""
    plots = _Plots()
    placed: dict[str, Any] = {}
    if study:
        placed |= _study_plots(study, plots)
    if assessment:
        placed["predictor"] = plots.place(figures.plot_predictor(assessment), "predictor")
    operators = figures.styles(figures.study_operators(study)) if study else []
    values = {"target": target, "study": study, "assessment": assessment, "operators": operators}
    return _page("target.html.j2", plots, plots=placed, **values)


def render_comparison(comparison: Comparison) -> str:
    """Spaces that were trained and searched alike, as a page of its own."""
    plots = _Plots()
    return _page(
        "comparison.html.j2",
        plots,
        comparison=comparison,
        headline=compared.headline(comparison),
        areas=list(compared.areas(comparison)),
        columns=compared.COLUMNS,
        rows=list(compared.rows(comparison)),
        plots={"front": plots.place(figures.plot_comparison(comparison), "front")},
    )


def _page(template: str, figures_: _Plots, **values: Any) -> str:
    from plotly.offline import get_plotlyjs  # 5 MB of text, read only when a page is made

    environment = Environment(
        loader=PackageLoader("spaceevo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=words.ms, budget=words.budget, percent=words.percent, points=words.points, times=words.times,
        correlation=words.correlation,
        signed_percent=words.signed_percent, duration=words.duration, link=_link,
        share=lambda share: words.NO_VALUE if share is None else words.percent(share),
        point=lambda share: words.NO_VALUE if share is None else words.points(share),
    )  # fmt: skip
    css, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template(template).render(
        figures_js=figures_.script(), css=Markup(css), plotly_js=Markup(get_plotlyjs()), **values
    )


class _Plots:
    """Places for plots in the page, and the figures that the page's script draws there at the end.

    Drawn any earlier, a plot would take the width of a page that is not laid out yet.
    """

    def __init__(self) -> None:
        self._figures: dict[str, str] = {}

    def place(self, figure: Any, name: str) -> Markup:
        """An empty element of the figure's height."""
        self._figures[f"plot_{name}"] = figure.to_json()
        return Markup('<div class="plot" id="plot_{}" style="height: {}px"></div>').format(name, figure.layout.height)

    def panels(self, figures: Mapping[str, Any], prefix: str) -> list[tuple[str, Markup]]:
        """(title, element) of each figure."""
        return [(title, self.place(figure, f"{prefix}_{i}")) for i, (title, figure) in enumerate(figures.items())]

    def script(self) -> Markup:
        """The figures as a JavaScript object; no text in them can end the script."""
        entries = ",\n".join(f'"{name}": {figure}' for name, figure in self._figures.items())
        return Markup("{" + entries.replace("<", "\\u003c") + "}")


def _place_plots(data: ReportData, plots: _Plots) -> dict[str, Any]:
    """Every plot's element by name; of those that come in several panels (title, element) pairs."""
    summary = data.summary
    single = {
        "pareto": figures.plot_pareto(summary),
        "predictor": figures.plot_predictor(data.assessment, words.named_models(summary)),
        "search": figures.plot_search(data.search),
        "plateau": figures.plot_plateau(data.search),
        "block_choices": figures.plot_block_choices(data.search, data.hyperspace),
        "window_choices": figures.plot_window_choices(data.search, data.hyperspace),
        "subnets": figures.plot_subnets(data.subnets),
        "stage_times": figures.plot_stage_times(summary),
    }
    blocks = figures.plot_block_table(data.table, data.hyperspace) if data.table is not None else {}
    placed: dict[str, Any] = {name: plots.place(figure, name) for name, figure in single.items()}
    return (
        placed
        | _study_plots(data.study, plots)
        | {
            "block_table": plots.panels(blocks, "block_table"),
            "curves": plots.panels(figures.plot_curves(data.curves), "curve"),
        }
    )


def _study_plots(study: Study, plots: _Plots) -> dict[str, Any]:
    panels = {f"{size} × {size}": figure for size, figure in figures.plot_study(study).items()}
    summary = plots.place(figures.plot_study_summary(study), "study_summary")
    return {"study_summary": summary, "study": plots.panels(panels, "study")}


def _model_groups(models: Sequence[ModelResult], summary: Summary) -> tuple[Group, ...]:
    def row(title: str, values: Sequence[str], strong: bool = False) -> Row:
        return Row(title, tuple(values), strong)

    def against_baseline(model: ModelResult) -> str:
        baseline = words.baseline_for(model, summary.baselines)
        return words.NO_VALUE if model.origin == "hand-made" or baseline is None else _difference(model, baseline)

    checks = [m.verification for m in models]
    accuracy = [
        row("INT8 top-1, computed by the runtime", [words.percent(m.top1_int8) for m in models], True),
        row("Fake-quantized top-1, in training", [words.percent(m.top1_fake_quant) for m in models]),
        row("FP32 top-1", [words.percent(m.top1_fp32) for m in models]),
    ]
    if any(m.top1_inherited is not None for m in models):
        inherited = [words.NO_VALUE if m.top1_inherited is None else words.percent(m.top1_inherited) for m in models]
        accuracy.insert(1, row("Inherited from the supernet, before fine-tuning", inherited))
    if summary.baselines:
        accuracy.append(row("Against the baseline of the budget", [against_baseline(m) for m in models]))
    return (
        Group("Latency", (
            row("INT8, measured", [words.ms(m.int8_ms) for m in models], True),
            row("INT8, predicted", [words.ms(m.predicted_ms) for m in models]),
            row("Error of the prediction", [words.signed_percent(words.prediction_error(m)) for m in models]),
            row("FP32, measured", [words.ms(m.fp32_ms) for m in models]),
            row("Speed-up of INT8 over FP32", [words.times(m.speedup) for m in models], True),
        )),
        Group("Accuracy", tuple(accuracy)),
        Group("Does the file compute what was trained?", (
            row("Same class as the integer reference", [words.share(v.integer.top1) for v in checks]),
            row("Same class as the fake-quantized network", [words.share(v.fake_quantized.top1) for v in checks]),
            row("Logits on the same 8-bit code", [words.share(v.fake_quantized.identical_codes) for v in checks]),
            row("Mean difference of a logit, in such codes", [f"{v.fake_quantized.mean_steps:.2g}" for v in checks]),
            row("Largest", [f"{v.fake_quantized.max_steps:.2g}" for v in checks]),
            row("Constants that are not the trained ones", [f"{len(v.changed_constants)}" for v in checks]),
            row("Operators computed in float", [f"{len(v.float_operators)}" for v in checks]),
        )),
        Group("Size", (
            row("MACs", [words.count(m.macs) for m in models]),
            row("Parameters", [words.count(m.params) for m in models]),
        )),
    )  # fmt: skip


def _difference(model: ModelResult, baseline: ModelResult) -> str:
    return words.points(model.top1_int8 - baseline.top1_int8)


@dataclass(frozen=True, slots=True)
class CellMatrix:
    """Block-wise distillation as a table: [block type][stage], None where there is no such cell."""

    stages: tuple[str, ...]
    block_types: tuple[str, ...]
    cells: tuple[tuple[DistilledCell | None, ...], ...]


def _cell_matrix(cells: Sequence[DistilledCell]) -> CellMatrix:
    stages = tuple(dict.fromkeys(cell.stage for cell in cells))
    types = tuple(dict.fromkeys(cell.block_type for cell in cells))
    by_place = {(cell.block_type, cell.stage): cell for cell in cells}
    return CellMatrix(stages, types, tuple(tuple(by_place.get((name, stage)) for stage in stages) for name in types))


def _space_rows(data: ReportData) -> list[tuple[str, str, str]]:
    """(stage, block type, widths) of the space that was trained."""
    choice = data.hyperspace.decode(data.search.chosen.encoding)
    rows = []
    for s, stage in enumerate(data.hyperspace.searched):
        window = choice.windows[s]
        widths = stage.widths[window : window + stage.window_size]
        rows.append((stage.name, str(stage.choices[choice.blocks[s]].block_type), ", ".join(map(str, widths))))
    return rows


def _deciding(search: SpaceSearchResult) -> list[StageChoice]:
    """The choices without which no space comes close to the best, the dearest first."""
    missed = [choice for choice in search.choices if choice.loss_without >= DECIDES]
    return sorted(missed, key=lambda choice: -choice.loss_without)


def _link(file: str) -> str:
    """A relative link: quoted, so that no file name can be read as an address or a script."""
    return quote(file.replace(os.sep, "/"))
