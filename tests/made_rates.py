"""Made-up speeds of a machine."""

from spaceevo.records import Rates

RATES = Rates(
    machine="made up", workers=2, supernet_fp32=1e9, supernet_int8=5e8, teacher=2e9, job_fp32=1e9, job_int8=5e8,
    job_score=1e9, job_evaluate=1e9, measure_s=0.5, memory_mib=100, job_memory_mib=100,
)  # fmt: skip
