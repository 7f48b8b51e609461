from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from made_up_report import make_data, make_model, make_target

from spaceevo.records import PassedOver, Preprocessing
from spaceevo.report import html
from spaceevo.report.data import ReportData

EVIL = "<script>alert(1)</script><img src=https://evil.example/x.png>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The page's tags, text outside of scripts, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.extend(data.split())

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def page(data: ReportData) -> Page:
    return Page(html.render(data))


def loads(page: Page) -> list[str]:
    """Addresses that a browser would fetch by itself."""
    return [
        str(attrs[name])
        for tag, attrs in page.tags
        for name in ("src", "srcset", "data", "href")
        if name in attrs and tag != "a"
    ]


def test_the_page_is_well_formed_and_fetches_nothing(page: Page) -> None:
    assert page.open == []
    assert loads(page) == []
    policy = [attrs for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy[0]["content"]).startswith("default-src 'none'")


def test_plotly_is_inlined_once_and_every_figure_has_its_place(data: ReportData, page: Page) -> None:
    scripts = [tag for tag, _ in page.tags if tag == "script"]
    assert len(scripts) == 2
    text = html.render(data)
    assert text.count("plotly.js v") == 1
    places = [attrs["id"] for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "plot"]
    assert len(places) == len(set(places)) == 9 + 3 + 3 + 3
    assert all(f'"{place}": {{' in text for place in places)


def test_the_numbers_are_there(page: Page) -> None:
    assert (
        "At 1.18 ms the INT8 model classifies 84.3 % of 2,000 validation images correctly, 2.1× faster than "
        "its FP32 twin and 3.4 points above the hand-made baseline of the same latency."
    ) in page.text
    for text in (
        "INT8, measured 0.784 ms 0.750 ms 1.18 ms 1.18 ms 1.96 ms 1.93 ms",
        "Error of the prediction −2.0 % +4.0 %",
        "Against the baseline of the budget +2.2 points – +3.4 points – +0.5 points –",
        "Same class as the fake-quantized network 99.85 %",
        "Mean difference of a logit, in such codes 0.03",
        "MACs 7.90 M",
        "Parameters 98.8 k",
        "95.0 % within 10 %, 75.0 % within 5 %, mean error 4.1 %",
        "Block type mbv1-dual-relu in stage3 is excluded: the loss stayed above 0.95 (after 3 trainings).",
        "avx2, avx512f, avx512_vnni",
        "−127 to 127.",
        "Peak memory of the main process 2,346 MiB",
        "30 min 45 s in all stages",
        "torch 2.13.0",
        "micro-413-223",
        "r40_stem-conv-relu-16",
    ):
        assert text in page.text, text


def test_what_was_fine_tuned_shows_what_it_was_before() -> None:
    models = (make_model(1.2, 0.84, top1_inherited=0.815), make_model(2.0, 0.86))
    text = Page(html.render(make_data(models=models, baselines=()))).text
    assert "Inherited from the supernet, before fine-tuning 81.5 % –" in text
    assert "before fine-tuning" not in Page(html.render(make_data())).text


@pytest.mark.parametrize(
    ("busy", "told", "not_told"),
    [(False, "the lower quartile, over the quiet visits", "the median, over"), (True, "the median, over", "quartile")],
)
def test_what_a_latency_is(busy: bool, told: str, not_told: str) -> None:
    text = Page(html.render(make_data(busy=busy))).text
    assert f"Latencies are measured on the target: {told}" in text
    assert not_told not in text


def test_links_to_the_files_are_relative(page: Page) -> None:
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links[:2] == ["export/model_0.8ms_int8.onnx", "export/model_0.8ms_fp32.onnx"]
    assert len(links) == 12


def test_names_from_users_are_escaped(data: ReportData) -> None:
    evil_model = make_model(1.2, 0.84, encoding=EVIL, int8_file="javascript:alert(1)")
    evil = replace(
        make_data(name=EVIL, data=EVIL, target=make_target(device=EVIL, flags=(EVIL,)), models=(evil_model,)),
        curves={EVIL: data.curves["teacher"]},
        study=data.study.model_copy(
            update={
                "advice": (EVIL,),
                "rows": tuple(row.model_copy(update={"operator": EVIL}) for row in data.study.rows),
            }
        ),
        cells=(data.cells[0].model_copy(update={"block_type": EVIL, "failure": EVIL}),),
    )
    text = html.render(evil)
    parsed = Page(text)
    assert EVIL not in text
    assert EVIL in parsed.text  # shown as it is
    assert [tag for tag, _ in parsed.tags if tag in ("script", "img")] == ["script", "script"]
    assert "javascript%3Aalert%281%29" in [attrs["href"] for tag, attrs in parsed.tags if tag == "a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"models": (make_model(1.2, 0.84),), "baselines": ()},
        {"models": (), "baselines": (), "stages": ()},
        {"models": (make_model(1.2, 0.84),), "baselines": (make_model(2.0, 0.9),)},
    ],
    ids=["single model", "nothing", "no baseline of the budget"],
)
def test_runs_with_little_in_them(changes: dict[str, Any]) -> None:
    data = make_data(**changes)
    empty = replace(
        data,
        table=None,
        cells=(),
        curves={},
        study=data.study.model_copy(update={"rows": (), "advice": ()}),
        assessment=data.assessment.model_copy(update={"networks": ()}),
        subnets=data.subnets.model_copy(update={"evaluated": (), "found": ()}),
        search=data.search.model_copy(update={"history": data.search.history[:1]}),
    )
    for each in (data, empty):
        page = Page(html.render(each))
        assert page.open == []
        assert "hand-made baseline of" not in page.text


def test_a_run_without_faults_says_so(data: ReportData) -> None:
    assert "Nothing went wrong" in Page(html.render(replace(data, cells=()))).text


def test_the_page_of_a_target(data: ReportData) -> None:
    target = data.study.target.model_copy(update={"device": "Fast <1>"})
    page = Page(html.render_target(target, data.study, data.assessment))
    assert page.open == []
    assert "Fast <1>" in page.text
    assert data.study.advice[0] in page.text
    assert "rank correlation" in page.text
    bare = Page(html.render_target(target, data.study))
    assert bare.open == []
    assert "rank correlation" not in bare.text


def test_choices_that_decide_are_told(data: ReportData, page: Page) -> None:
    assert "stage1 block 4, fused-ib-relu 100.0 % 3.1 %" in page.text
    assert "widths 48-80 50.0 %" not in page.text
    no_choice = replace(data, search=data.search.model_copy(update={"choices": ()}))
    assert "No single choice decides" in Page(html.render(no_choice)).text


def test_short_trainings_of_spaces_are_shown(data: ReportData, page: Page) -> None:
    assert "Trials of near-equal" not in page.text
    spaces = data.search.within_tolerance[:2]
    trials = [
        {"space": one, "top1": top1} for one, top1 in zip(spaces, ((0.5, 0.6, 0.7), (0.55, 0.65, 0.75)), strict=True)
    ]
    search = type(data.search).model_validate(data.search.model_dump() | {"trials": trials})
    tried = Page(html.render(replace(data, search=search)))
    assert "Trials of near-equal" in tried.text
    assert "65.0 %" in tried.text
    assert f"The space that was trained: {spaces[1].encoding}" in tried.text
    trials[0]["top1"] = (None, 0.8, 0.9)
    unmet = Page(
        html.render(replace(data, search=type(search).model_validate(search.model_dump() | {"trials": trials})))
    )
    assert "– (no network meets it) 80.0 % 90.0 % –" in unmet.text
    assert f"The space that was trained: {spaces[1].encoding}" in unmet.text


def test_a_rank_correlation_that_is_undefined_is_a_dash(data: ReportData) -> None:
    undefined = replace(data, assessment=data.assessment.model_copy(update={"spearman": None}))
    assert "rank correlation – (undefined: one network, or equal latencies)" in Page(html.render(undefined)).text


def test_what_was_read_of_the_data_is_told() -> None:
    read = "5,000 training and 2,000 validation images; "
    passed = (PassedOver("files with the ending .heic", 2, "train/<i>cat</i>/0.heic"),)
    text = html.render(make_data(num_train_images=5000, passed_over=passed, not_searched=("eel",)))
    assert f"{read}passed over: 2 files with the ending .heic (train/&lt;i&gt;cat&lt;/i&gt;/0.heic)" in text
    assert "The subnet search saw no image of eel: " in text
    assert f"{read}nothing passed over" in html.render(make_data(num_train_images=5000))
    assert "passed over" not in html.render(make_data()), "an earlier version did not know"


def test_the_report_tells_which_budget_and_what_files_read() -> None:
    data = make_data()
    preprocessing = Preprocessing(resize=32, image_size=40, min_decoded_size=80, mean=(0.5,) * 3, std=(0.25,) * 3)
    models = tuple(m.model_copy(update={"preprocessing": preprocessing}) for m in data.summary.models[:2])
    page = html.render(replace(data, summary=data.summary.model_copy(update={"models": models})))
    assert "about the lower of 2 latency budgets" in page
    assert "medians on the target" not in page
    for step in preprocessing.steps:
        assert step in page.replace("&#39;", "'")
    assert "What the files read" not in html.render(data), "results of older versions tell nothing"
