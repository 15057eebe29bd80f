"""Random wrong arguments of the API end in a value or in one sentence; see `api_cases`.

SABOC_FUZZ_CASES sets the number of cases, SABOC_FUZZ_SEED which (`scripts/fuzz.sh`).
"""

import os
from collections import Counter

import pytest
from api_cases import answer

CASES = int(os.environ.get("SABOC_FUZZ_CASES", "60"))
SEED = int(os.environ.get("SABOC_FUZZ_SEED", "0"))


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_end_in_a_value_or_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text may be a good path of a store
    answers = [answer(number, SEED) for number in range(CASES)]
    counts = Counter(said if said in ("fine", "one sentence") else "bad" for _, said in answers)
    print(f"api: {CASES} tried, {dict(counts)}")
    bad = [f"{words}: {said}" for words, said in answers if said not in ("fine", "one sentence")]
    assert not bad, "\n".join(bad)
