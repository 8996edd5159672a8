"""What papers claim, judged on a run: reproduced, contradicted, inconclusive, or not comparable here."""

from reports.claims.entries import Claim, claims, read_claims
from reports.claims.evidence import Evidence, evidence_of_run, load_evidence
from reports.claims.show import claims_sentences, claims_table, write_claims
from reports.claims.verdicts import Judged, judge_claims

__all__ = [
    "Claim",
    "Evidence",
    "Judged",
    "claims",
    "claims_sentences",
    "claims_table",
    "evidence_of_run",
    "judge_claims",
    "load_evidence",
    "read_claims",
    "write_claims",
]
