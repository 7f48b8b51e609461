"""The plots of the report: `plot_*` (a plotly figure), most of them from `*_numbers` (plain values).

Texts from records are escaped before plotly reads them, because plotly renders some HTML in labels.
"""

from spaceevo.report.figures.classes import confusion_shares as confusion_shares, plot_confusion as plot_confusion
from spaceevo.report.figures.drawing import (
    MAX_POINTS as MAX_POINTS,
    Style as Style,
    page as page,
    styles as styles,
)
from spaceevo.report.figures.models import (
    ParetoNumbers as ParetoNumbers,
    Points as Points,
    pareto_numbers as pareto_numbers,
    plot_comparison as plot_comparison,
    plot_pareto as plot_pareto,
    plot_stage_times as plot_stage_times,
)
from spaceevo.report.figures.predictor import (
    PredictorNumbers as PredictorNumbers,
    plot_predictor as plot_predictor,
    predictor_numbers as predictor_numbers,
)
from spaceevo.report.figures.spaces import (
    ChoiceNumbers as ChoiceNumbers,
    Cloud as Cloud,
    Distribution as Distribution,
    block_table_numbers as block_table_numbers,
    block_type_names as block_type_names,
    choice_numbers as choice_numbers,
    distribution_numbers as distribution_numbers,
    plot_block_choices as plot_block_choices,
    plot_block_table as plot_block_table,
    plot_latencies as plot_latencies,
    plot_losses as plot_losses,
    plot_plateau as plot_plateau,
    plot_search as plot_search,
    plot_window_choices as plot_window_choices,
)
from spaceevo.report.figures.study import (
    StudySummary as StudySummary,
    plot_study as plot_study,
    plot_study_summary as plot_study_summary,
    study_numbers as study_numbers,
    study_operators as study_operators,
    study_summary_numbers as study_summary_numbers,
)
from spaceevo.report.figures.trainings import (
    CurveNumbers as CurveNumbers,
    SubnetNumbers as SubnetNumbers,
    curve_numbers as curve_numbers,
    plot_curve as plot_curve,
    plot_curves as plot_curves,
    plot_subnets as plot_subnets,
    subnet_numbers as subnet_numbers,
)
