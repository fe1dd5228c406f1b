# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re

import pytest

from DIANetLib.bundle import list_bundles
from DIANetLib.bundle_schema import ModalitySpec
from DIANetLib.catalogue import read_catalogue, search_paths, structure_info
from DIANetLib.worker.protocol import CodeInfo, ModalityInfo
from Testing.bundle.test_heads import write_classifier
from Testing.bundle.tiny import localiser, structures, write_bundle


def test_the_shipped_models_are_described_as_their_metadata_says():
    listed = {model.name: model for model in read_catalogue()}
    hippocampus = listed["hippocampus"]
    assert hippocampus.sides
    assert hippocampus.localiser == "brain-structures"
    assert hippocampus.licence == "CC-BY-SA-4.0"
    assert [m.name for m in hippocampus.modalities] == ["T1"]
    assert [s.key for s in hippocampus.structures] == ["hippocampus_anterior", "hippocampus_posterior"]
    assert hippocampus.structures[0].type == CodeInfo("SCT", "5366008", "Hippocampus")
    assert "not a medical device" in hippocampus.intended_use
    assert listed["brain-structures"].licence == "CC-BY-SA-3.0"
    assert not listed["brain-structures"].sides
    assert all(model.problem is None for model in listed.values())


def test_it_says_what_the_full_reader_says():
    for info, entry in zip(read_catalogue(), list_bundles(), strict=True):
        assert (info.name, info.path, info.problem) == (entry.name, str(entry.path), entry.problem)
        section = entry.metadata.dianet
        assert info.structures == tuple(structure_info(s) for s in section.structures)
        assert info.modalities == tuple(
            ModalityInfo(m.name, m.required, m.aliases) for m in section.modalities
        )
        assert (info.version, info.size_bytes) == (entry.metadata.version, section.size_bytes)


def test_fields_are_read_whole(tmp_path):
    write_bundle(
        tmp_path,
        localiser=localiser(),
        structures=tuple(s.on_side("left") for s in structures("head", "tail")),
        modalities=(ModalitySpec(name="T1", required=False, aliases=("T1w",)),),
    )
    (info,) = read_catalogue([tmp_path])
    assert info.modalities == (ModalityInfo("T1", False, ("T1w",)),)
    assert info.structures[0].modifier == CodeInfo("SCT", "7771000", "Left")
    assert info.localiser == "where"
    assert info.licence == "Copyright (c) The DIANet contributors"  # no short name is noted
    assert info.problem is None


def broken(change):
    def write(folder):
        file = folder / "configs/metadata.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return write


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda f: (f / "configs/metadata.json").unlink(), "is not a model folder"),
        (lambda f: (f / "configs/metadata.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "configs/metadata.json").write_bytes(b"\xff"), "not valid JSON"),
        (lambda f: (f / "configs/metadata.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda f: (f / "configs/metadata.json").write_text("[]"), "not a DIANet model"),
        (broken(lambda d: d.pop("dianet")), 'has no section "dianet"'),
        (broken(lambda d: d["dianet"].update(format_version=99)), r"format version 99.*Update DIANet"),
        (broken(lambda d: d["dianet"].pop("structures")), "does not describe a usable model"),
        (broken(lambda d: d["dianet"].update(structures=[3])), "does not describe a usable model"),
        (broken(lambda d: d["dianet"]["structures"][0].update(color=[1, 2, 999])), "has colour"),
        (broken(lambda d: d["dianet"].update(size_bytes=3)), "bytes, expected 3"),
        (lambda f: (f / "models/model.safetensors").unlink(), "is incomplete"),
    ],
)
def test_a_folder_that_cannot_be_used_is_listed_with_its_problem(tmp_path, damage, why):
    damage(write_bundle(tmp_path))
    (info,) = read_catalogue([tmp_path])
    assert info.name == "tiny"
    assert re.search(why, info.problem), info.problem


def test_the_first_of_a_name_wins_and_what_is_no_model_is_not_listed(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    write_bundle(first)
    write_bundle(second)
    write_bundle(second, "other")
    (second / ".hidden" / "configs").mkdir(parents=True)
    (second / "empty").mkdir()
    listed = read_catalogue([first, tmp_path / "nowhere", second])
    assert [(m.name, m.path) for m in listed] == [
        ("tiny", str(first / "tiny")),
        ("other", str(second / "other")),
    ]
    monkeypatch.setenv("DIANET_MODELS", str(first))
    assert search_paths()[0] == first
    assert read_catalogue()[0].path == str(first / "tiny")


def test_a_classifier_is_listed_with_its_classes_and_without_structures(tmp_path):
    write_classifier(tmp_path)
    (info,) = read_catalogue([tmp_path])
    assert (info.problem, info.structures) == (None, ())
    assert info.classes == ("No finding", "Pneumonia")
