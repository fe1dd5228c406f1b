# SPDX-License-Identifier: Apache-2.0
"""The viewer in a real browser, used as a person uses it: what is clicked changes what is seen."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

from Testing.viewer.conftest import viewing

pytestmark = pytest.mark.slow

READY = "[...document.querySelectorAll('.dn-view img')].filter(i => i.naturalWidth > 50).length == 4"
LAYERS = {
    "Total uncertainty": "nats",
    "Aleatoric uncertainty": "nats",
    "Epistemic uncertainty": "nats",
    "Variance of Head left": "variance of the probability",
    "Grad-CAM of Head right": "relative to its maximum",
    "Attention": "relative to its maximum",
    "Saliency": "image × attention",
    "Reliable path": "number of the path",
    "Error probability": "probability of a wrong label",
}


@pytest.fixture
def folder(running):
    return running.folder


@pytest.fixture
def page(chromium, running):
    chromium.errors.clear()
    chromium.open(running.url)
    chromium.wait(READY)
    yield chromium
    assert chromium.errors == []


def still(page, selector: str = ".dn-views") -> np.ndarray:
    """A picture of the views that no longer changes."""
    before = page.picture(selector)
    for _ in range(200):
        page.js("new Promise(done => setTimeout(done, 100))")
        after = page.picture(selector)
        if np.array_equal(before, after):
            return after
        before = after
    raise AssertionError("the views never came to rest")


def wait_for_change(page, before: np.ndarray, what: str) -> None:
    """Wait until some of the views' pixels differ from a picture of before, by more than JPEG does."""
    share = 0.0
    for _ in range(200):
        apart = np.abs(before.astype(int) - page.picture(".dn-views").astype(int)).max(axis=-1)
        share = float((apart > 40).mean())
        if share > 0.002:
            return
        page.js("new Promise(done => setTimeout(done, 50))")
    raise AssertionError(f"{what}: only {share:.2%} of the picture changed")


def slide(page, name: str, share: float) -> None:
    """Click a slider of 0 to 100 % at a place, and wait for its number."""
    page.click(f".dn-{name} .v-slider-track", at=share)
    shown = f"parseInt(document.querySelector('.dn-{name}').parentElement.lastElementChild.innerText)"
    page.wait(f"Math.abs({shown} - {100 * share}) < 4")


def shown_mm(orientation: str) -> str:
    """JavaScript for where a slice view cuts, as the page says."""
    text = f"document.querySelector('.dn-at-{orientation}').innerText"
    return f"parseFloat({text}.replace('−', '-').match(/(-?[\\d.]+) mm/)[1])"


def regions_of(folder) -> list[dict]:
    return json.loads((folder / "regions.json").read_text())["regions"]


def test_the_page_shows_the_case_its_quality_its_warnings_and_the_notice(page):
    body = page.text(".dn-page")

    for text in (
        "image (T1)",
        "Model tiny 1.0.0",
        "The image has <b>thick</b> slices & is noisy.",
        "Expected Dice 0.91 (0.86–0.94)",
        "Expected Dice 0.62 (0.50–0.75)",
        "Image: unusual (right region), unlike most of what the model was fitted on",
        "For research use only. Not a medical device.",
    ):
        assert text in body
    assert page.js("[...document.querySelectorAll('.dn-light')].map(e => e.innerText)") == [
        "good",
        "look closely",
    ]
    assert all(
        np.ptp(page.picture(f".dn-view-{name}")) > 100 for name in ("Red", "Green", "Yellow", "ThreeD")
    )


def test_each_layer_can_be_chosen_and_is_seen_with_its_unit(page):
    page.choose(".dn-layer", "No layer")
    page.wait("!document.querySelector('.dn-legend')")
    before = still(page)

    for title, unit in LAYERS.items():
        page.choose(".dn-layer", title)
        wait_for_change(page, before, title)
        page.wait(f"document.querySelector('.dn-unit')?.innerText == {unit!r}")
        before = page.picture(".dn-views")


def test_opacity_and_threshold_change_the_picture_and_the_words(page):
    slide(page, "opacity", 0.6)
    slide(page, "threshold", 0.1)
    before = still(page)

    slide(page, "threshold", 0.8)
    wait_for_change(page, before, "threshold")
    assert page.text(".dn-hidden-below").startswith("Hidden below 0.8")
    slide(page, "threshold", 0.1)
    slide(page, "opacity", 0.95)
    wait_for_change(page, before, "opacity")
    slide(page, "opacity", 0.6)


def test_a_click_on_a_region_leads_all_views_to_its_centre(page, folder):
    for row in (regions_of(folder)[n] for n in (1, 2, 0)):
        page.click(f".dn-region-{row['rank']}")
        page.wait(f"document.querySelector('.dn-region-{row['rank']}').classList.contains('dn-chosen')")
        left, posterior, superior = row["centre"]
        for orientation, value in (("Axial", superior), ("Coronal", -posterior), ("Sagittal", -left)):
            page.wait(f"Math.abs({shown_mm(orientation)} - {value}) < 0.06")


def test_the_slider_of_a_view_moves_its_slice(page):
    page.click(".dn-slice-Axial .v-slider-track", at=0.1)
    page.wait(f"{shown_mm('Axial')} < -20")

    page.click(".dn-slice-Axial .v-slider-track", at=0.9)
    page.wait(f"{shown_mm('Axial')} > 20")


def test_dragging_zooms_and_moves_slices_and_turns_the_3d_view(page):
    for view, button in (("Red", "right"), ("Green", "middle"), ("ThreeD", "left")):
        before = still(page)
        page.drag(f".dn-view-{view}", button, (50, 70))
        wait_for_change(page, before, f"{button} in {view}")


def test_what_is_said_of_regions_is_in_the_folder_and_there_after_a_reload(page, folder, running):
    for rank, state in ((1, "accepted"), (2, "corrected"), (3, "skipped")):
        page.click(f".dn-region-{rank}")
        page.wait(f"document.querySelector('.dn-region-{rank}').classList.contains('dn-chosen')")
        page.click(f".dn-set-{state}")
        page.wait(
            f"document.querySelector('.dn-progress').innerText.startsWith('{rank} of 4 regions judged')"
        )

    rows = regions_of(folder)
    assert [row["state"] for row in rows] == ["accepted", "corrected", "skipped", "open"]
    assert rows[0]["reviewer"] == "Ada"
    assert "accepted" in (folder / "regions.csv").read_text()
    page.open("about:blank")
    page.open(running.url)
    page.wait(READY)
    assert page.text(".dn-progress").startswith("3 of 4 regions judged")
    assert [page.text(f".dn-region-{n} .dn-state") for n in (1, 2, 3, 4)] == [
        "accepted",
        "corrected elsewhere",
        "skipped",
        "open",
    ]


def test_letters_on_the_keyboard_judge_and_step(page, folder):
    page.click(".dn-region-2")
    page.wait("document.querySelector('.dn-region-2').classList.contains('dn-chosen')")

    page.key("o")
    page.wait("document.querySelector('.dn-region-2 .dn-state').innerText == 'open'")
    page.key("a")
    page.wait("document.querySelector('.dn-region-2 .dn-state').innerText == 'accepted'")

    assert regions_of(folder)[1]["state"] == "accepted"
    page.wait("document.querySelector('.dn-region-4').classList.contains('dn-chosen')")  # the next open one
    page.key("p")
    page.wait("document.querySelector('.dn-region-3').classList.contains('dn-chosen')")


def test_moving_the_limits_changes_the_lights(page):
    page.click(".dn-limits .v-slider-track", at=0.99)

    page.wait("[...document.querySelectorAll('.dn-light')][0].innerText == 'check'")


def test_with_broken_files_the_rest_is_shown_and_ctrl_c_ends_it_without_a_complaint(chromium, result):
    (result.parent / "image.nii.gz").unlink()
    (result / "uncertainty_total.nrrd").write_bytes(b"NRRD0004 but broken")
    (result / "gradcam_head_left.nrrd").unlink()
    (result / "regions.json").write_text("{")

    with viewing(result) as viewer:
        chromium.open(viewer.url)
        chromium.wait(READY)
        chromium.choose(".dn-layer", "Total uncertainty")
        chromium.wait("document.querySelector('.dn-left').innerText.includes('uncertainty_total.nrrd')")
        body = chromium.text(".dn-page")
        chromium.choose(".dn-layer", "Error probability")
        chromium.wait("!!document.querySelector('.dn-legend')")
        picture = still(chromium, ".dn-view-Red")
        viewer.process.send_signal(signal.SIGINT)
        assert viewer.process.wait(20) == 0
        assert viewer.process.stderr.read() == ""

    assert "is no longer at" in body
    assert "gradcam_head_left.nrrd is missing" in body
    assert "The worklist cannot be shown" in body
    assert (result / "regions.json").read_text() == "{"
    assert (np.ptp(picture.astype(int), axis=-1) > 60).any()  # colours over black
