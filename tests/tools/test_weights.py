"""``tools/weights.py``, without a network."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from tests.tools.command_line import Call, call, files  # noqa: F401 - a fixture


def test_list(call: Call, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "RemoteCLIP-RN50.pt").write_bytes(b"")
    outcome = call("weights", "list", f"folder={tmp_path}")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines if "unknown" in line] == [
        "convnext_large", "farslip_vitb32", "georsclip_vitl14", "remoteclip_rn50", "remoteclip_vitb32",
        "remoteclip_vitl14", "skyclip_vitl14",
    ]  # fmt: skip
    place = next(index for index, line in enumerate(lines) if line.startswith("remoteclip_rn50"))
    assert lines[place + 1] == "  RemoteCLIP-RN50.pt" and lines[place + 2] == f"  {tmp_path}/RemoteCLIP-RN50.pt"
    assert "  RemoteCLIP-ViT-L-14.pt, not here, is published at" in lines


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["fetch", "remoteclip_rn50", "folder=here"], "without a network, bring https://huggingface.co/chendelong/"),
        (["fetch", "remoteclip_rn50"], "fetch: no folder; set SCORE_WEIGHTS or use score weights fetch NAME"),
        (["fetch", "folder=here"], "fetch: no name; use score weights fetch NAME folder=FOLDER"),
        (["fetch", "remoteclip", "folder=here"], "no weights remoteclip; there are convnext_large, "),
        (["bring"], "action=bring: not one of list, fetch, check"),
        ([], "action: not given"),
    ],
)
def test_bad_input(
    call: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.delenv("SCORE_WEIGHTS", raising=False)
    outcome = call("weights", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and line in outcome.err and outcome.err.count("\n") == 1
    assert not [name for name in files(tmp_path) if name != "here"]


def test_check(call: Call, tmp_path: Path) -> None:  # noqa: F811
    state = open_clip.create_model("RN50", force_quick_gelu=True).state_dict()
    torch.save(state, tmp_path / "RemoteCLIP-RN50.pt")
    outcome = call("weights", "check", "folder=.", "runtime.threads=1")
    assert outcome.code == 0, outcome.err
    assert "remoteclip_vitl14  not here" in outcome.out
    assert "remoteclip_rn50    float32, embedding 1024, words 0." in outcome.out
    (tmp_path / "RemoteCLIP-RN50.pt").write_bytes((tmp_path / "RemoteCLIP-RN50.pt").read_bytes()[:1000])
    outcome = call("weights", "check", "remoteclip_rn50", "folder=.")
    assert outcome.code == 2 and "weights do not fit RN50" in outcome.out
    assert outcome.err == "error: not usable: remoteclip_rn50; see above\n"
