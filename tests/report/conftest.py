from __future__ import annotations

import pytest
from made_up_report import make_data

from spaceevo.report.data import ReportData


@pytest.fixture(scope="session")
def data() -> ReportData:
    return make_data()
