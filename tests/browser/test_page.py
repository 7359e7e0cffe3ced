"""Proves that the page does what people do with it, against a real gateway, Kafka, S3 and worker."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from darkroom.schemas.events.request import SEED_MAX
from tests.browser.site import SEEN_MS_MAX, GatewayProcess, Site, Watch
from tests.integration.fleet import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.browser]

RIGHT_WRIST, LEFT_WRIST = 4, 7
SLOW = "150"
"""Steps of a request that is to be caught while it is rendered: some seconds of the simulated device."""


def write(page: Page, prompt: str, **settings: str) -> None:
    page.fill("#prompt", prompt)
    if settings and not page.locator("#steps").is_visible():
        page.click(".settings summary")
    for name, value in settings.items():
        page.fill(f"#{name}", value)


def joint(page: Page, index: int, figure: int = 0) -> Locator:
    return page.locator(f'.joint[data-figure="{figure}"][data-joint="{index}"]')


def drag(page: Page, index: int, dx: float, dy: float) -> tuple[float, float]:
    """Drag a joint by fractions of the stage; returns where it should be now."""
    stage = page.locator(".stage").bounding_box()
    dot = joint(page, index).locator(".dot").bounding_box()
    assert stage is not None
    assert dot is not None
    x, y = dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx * stage["width"] / 2, y + dy * stage["height"] / 2)
    page.mouse.move(x + dx * stage["width"], y + dy * stage["height"])
    page.mouse.up()
    return (x - stage["x"]) / stage["width"] + dx, (y - stage["y"]) / stage["height"] + dy


def wait_for(page: Page, condition: str) -> None:
    """Wait until an expression is true. Playwright's own way evaluates text in the page, which the policy forbids."""
    wait_until(lambda: bool(page.evaluate(condition)), SEEN_MS_MAX / 1000, condition)


def picture_is_shown(page: Page, number: int = 1) -> Locator:
    tile = page.locator(".tile").first
    expect(page.locator(".tile")).to_have_count(number)
    tile.scroll_into_view_if_needed()
    wait_for(page, "document.querySelector('.tile img').naturalWidth > 0")
    return tile


def test_a_dragged_joint_is_in_the_request_and_its_picture_appears(page: Page, watch: Watch) -> None:
    write(page, "a dancer", steps=SLOW, seed="41")
    x, y = drag(page, RIGHT_WRIST, -0.15, -0.3)
    page.click("[type=submit]")
    card = page.locator(".card")
    expect(card.locator(".state")).to_have_text("Rendering")
    expect(card.locator("progress")).to_have_js_property("max", 150)
    wait_for(page, "document.querySelector('.card progress').value > 5")
    expect(card.locator(".where")).to_contain_text("done")
    expect(card.locator("img")).to_be_visible()
    tile = picture_is_shown(page)
    expect(card).to_have_count(0)
    expect(tile.locator(".seed")).to_contain_text("41")
    expect(tile.locator(".facts")).to_contain_text(re.compile(r"queued.*render.*store.*batch\s*\d"))

    [asked] = watch.requests
    person = asked["pose"]["people"][0]
    assert person[RIGHT_WRIST] == pytest.approx([x, y], abs=0.005)
    assert person[LEFT_WRIST] == pytest.approx([0.624, 0.5], abs=0.005), "what was not dragged stays"
    assert (asked["prompt"], asked["steps"], asked["seed"], asked["progress"]) == ("a dancer", 150, 41, "previews")


def test_a_recipe_is_put_into_the_form_and_what_is_changed_there_wins(page: Page, watch: Watch) -> None:
    write(page, "a dancer", seed="5")
    page.click(".settings .settings summary")
    page.select_option("#recipe", "ays-10")
    expect(page.locator("#steps")).to_have_value("10")
    expect(page.locator("#sampler")).to_have_value("dpmpp_2m_sde")
    expect(page.locator("#recipe-hint")).to_contain_text("Align Your Steps")
    page.click("[type=submit]")
    picture_is_shown(page)
    page.select_option("#sampler", "dpmpp_2m")
    page.fill("#guidance_end", "0.8")
    page.fill("#guidance_rescale", "0.7")
    page.click("[type=submit]")
    picture_is_shown(page, 2)
    first, second = watch.requests
    assert first["recipe"] == second["recipe"] == "ays-10"
    assert (first["steps"], first["sampler"], first["schedule"]) == (10, "dpmpp_2m_sde", "align_your_steps")
    assert not first.keys() & {"guidance_start", "guidance_end", "guidance_rescale", "prompt_syntax", "clip_skip"}
    assert (second["sampler"], second["guidance_end"], second["guidance_rescale"]) == ("dpmpp_2m", 0.8, 0.7)

    page.reload()
    page.click(".settings summary")
    expect(page.locator("#recipe")).to_have_value("ays-10")
    expect(page.locator("#sampler")).to_have_value("dpmpp_2m")
    page.click(".settings .settings summary")
    page.select_option("#recipe", "")
    expect(page.locator("#steps")).to_have_value("")
    expect(page.locator("#sampler")).to_have_value("euler_ancestral")
    expect(page.locator("#guidance_end")).to_have_value("0.8")


def test_everything_is_done_with_the_keyboard_alone(page: Page, watch: Watch) -> None:
    def press_until(key: str, selector: str) -> None:
        for _ in range(60):
            page.keyboard.press(key)
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{key} never came to {selector}")

    press_until("Tab", "#prompt")
    page.keyboard.type("a fencer")
    press_until("Tab", ".joint")
    for _ in range(RIGHT_WRIST):
        page.keyboard.press("Tab")
    expect(joint(page, RIGHT_WRIST)).to_be_focused()
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(page.locator("[data-who]")).to_be_focused()
    page.keyboard.press("Control+Enter")
    picture_is_shown(page)
    press_until("Tab", ".tile .open")
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_contain_text("a fencer")
    expect(viewer.locator("[data-known]")).to_contain_text("simulated")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".tile .open")).to_be_focused()

    person = watch.requests[0]["pose"]["people"][0]
    assert person[RIGHT_WRIST] == pytest.approx([0.376 - 2 * 0.005, 0.5 - 0.04], abs=1e-4)
    assert person[RIGHT_WRIST + 1] is None, "Space took the left shoulder out"


def test_a_reload_in_the_middle_loses_nothing(page: Page, watch: Watch) -> None:
    write(page, "a hiker", steps=SLOW)
    drag(page, LEFT_WRIST, 0.1, -0.2)
    page.click("[type=submit]")
    expect(page.locator(".card .state")).to_have_text("Rendering")
    described = [joint(page, index).get_attribute("aria-label") for index in range(18)]
    wait_for(page, "localStorage.getItem('darkroom.draft.v1')?.includes('hiker')")
    page.reload()
    expect(page.locator("[data-job]")).to_have_count(1)
    expect(page.locator("#prompt")).to_have_value("a hiker")
    assert [joint(page, index).get_attribute("aria-label") for index in range(18)] == described
    picture_is_shown(page)
    page.reload()
    picture_is_shown(page)
    assert len(watch.requests) == 1


def test_a_job_is_cancelled(page: Page) -> None:
    write(page, "nobody wants this", steps=SLOW, count="8")
    page.click("[type=submit]")
    expect(page.locator(".card .state")).to_have_text("Rendering")
    page.click(".card >> text=Cancel")
    expect(page.locator(".card .state")).to_have_text("Cancelled")
    page.click(".card >> text=Remove")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#jobs [data-empty]")).to_be_visible()


def test_what_is_wrong_is_said_beside_its_field(page: Page, watch: Watch) -> None:
    page.click("[type=submit]")
    expect(page.locator("#prompt-note")).to_have_text("Say what to paint.")
    expect(page.locator("#prompt")).to_be_focused()
    write(page, "a dancer", steps="151")
    page.click("[type=submit]")
    expect(page.locator("#steps-note")).to_have_text("Use 1 to 150.")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    assert watch.sent == []
    page.fill("#steps", "3")
    expect(page.locator("#steps-note")).to_be_empty()


def test_a_refusal_and_a_failure_are_shown_with_their_remedies(page: Page, watch: Watch) -> None:
    watch.refusals_expected = True
    write(page, "two of them", seed=str(SEED_MAX), count="2")
    page.click("[type=submit]")
    refusal = page.locator(".refusal")
    expect(refusal).to_contain_text("seed + count")
    expect(refusal.locator("[data-remedy]")).not_to_be_empty()
    expect(page.locator(".card")).to_have_count(0)

    def bend(route: Route, request: Request) -> None:
        route.continue_(post_data=json.dumps({**request.post_data_json, "width": 100, "height": 100}))

    # The gateway does not know the model, so only the worker can say that it paints multiples of 8 pixels.
    page.route("**/v1/generations", bend)
    page.fill("#seed", "1")
    page.click("[type=submit]")
    expect(refusal).to_be_hidden()
    expect(page.locator(".card .state")).to_have_text("Failed")
    expect(page.locator(".card-problem")).to_contain_text("multiple")
    expect(page.locator(".card-problem .remedy")).to_contain_text("Correct the field")


def test_a_gateway_that_is_restarted_is_found_again(page: Page, watch: Watch, site: Site) -> None:
    watch.refusals_expected = True
    write(page, "patience", steps=SLOW, count="4")
    page.click("[type=submit]")
    expect(page.locator(".card .state")).to_have_text("Rendering")
    site.gateway.stop()
    expect(page.locator(".card-problem")).to_contain_text("cannot be reached")
    page.fill("#prompt", "sent into the void")
    page.fill("#steps", "3")
    page.fill("#count", "1")
    page.click("[type=submit]")
    expect(page.locator(".card").first.locator(".state")).to_have_text("Sending")
    site.gateway.start()
    expect(page.locator(".tile")).to_have_count(5)
    expect(page.locator(".card")).to_have_count(0)


def test_a_skeleton_and_a_photo_are_sent_as_files(page: Page, watch: Watch, tmp_path: Path) -> None:
    skeleton = Image.new("RGB", (64, 64))
    skeleton.paste("red", (16, 8, 20, 56))
    skeleton.save(tmp_path / "skeleton.png")
    Image.new("RGB", (64, 64), "tan").save(tmp_path / "photo.png")
    write(page, "as in the picture", steps="4")
    for number, (name, kind) in enumerate((("skeleton", "pose"), ("photo", "photo")), start=1):
        page.set_input_files("[data-file]", tmp_path / f"{name}.png")
        expect(page.locator("[data-picture]")).to_be_visible()
        expect(page.locator(f"[name=picture-kind][value={kind}]")).to_be_checked()
        page.click("[type=submit]")
        picture_is_shown(page, number)
        body = watch.sent[-1].post_data_buffer
        assert body is not None
        assert f'name="{kind}"; filename="{name}.png"'.encode() in body
    page.locator(".tile").first.get_by_title("Again with another seed").click()
    picture_is_shown(page, 3)
    again = watch.sent[-1].post_data_json
    assert "key" in again["pose"]["photo"], "the stored picture is named instead of sent again"


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_picture_brings_its_settings_back(page: Page, watch: Watch, tmp_path: Path, image_format: str) -> None:
    write(page, 'a "red" dancer & 雪', steps="7", seed="40")
    page.get_by_text("More", exact=True).click()
    page.select_option("#format", image_format)
    page.select_option("#schedule", "karras")
    page.fill("#count", "2")
    page.click("[type=submit]")
    expect(page.locator(".tile")).to_have_count(2)
    asked = watch.sent[-1].post_data_json
    content = page.request.get(urljoin(page.url, f"v1/generations/{asked['request_id']}/images/1")).body()
    (tmp_path / f"second.{image_format}").write_bytes(content)
    write(page, "something else", steps="3", seed="1")
    page.select_option("#schedule", "")
    page.set_input_files("[data-source-picture]", tmp_path / f"second.{image_format}")
    expect(page.locator("#prompt")).to_have_value('a "red" dancer & 雪')
    for name, value in {"steps": "7", "seed": "41", "count": "1", "schedule": "karras"}.items():
        expect(page.locator(f"#{name}")).to_have_value(value)
    page.click("[type=submit]")
    expect(page.locator(".tile")).to_have_count(3)
    repeated = watch.sent[-1].post_data_json
    assert (repeated["seed"], repeated["pose"]) == (41, asked["pose"])


def test_a_picture_without_settings_says_so(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "tan").save(tmp_path / "other.png")
    write(page, "kept")
    page.set_input_files("[data-source-picture]", tmp_path / "other.png")
    expect(page.locator("[data-refusal]")).to_contain_text("other.png does not say how it was made")
    expect(page.locator("#prompt")).to_have_value("kept")


def test_figures_are_edited_undone_exported_and_imported(page: Page, watch: Watch, tmp_path: Path) -> None:
    stage = page.locator(".stage")
    before = stage.inner_html()
    page.click("[title='Dancing']")
    page.click("[data-tool=duplicate]")
    page.click("[data-tool=mirror]")
    expect(page.locator(".joint")).to_have_count(36)
    drag(page, RIGHT_WRIST, 0.05, 0.1)
    with page.expect_download() as saved:
        page.click("[data-tool=export]")
    saved.value.save_as(tmp_path / "pose.json")
    pose = json.loads((tmp_path / "pose.json").read_text())
    assert [len(person) for person in pose["people"]] == [18, 18]
    for _ in range(4):
        page.click("[data-tool=undo]")
    expect(page.locator("[data-tool=undo]")).to_have_attribute("aria-disabled", "true")
    assert stage.inner_html() == before

    page.set_input_files("[data-file]", tmp_path / "pose.json")
    expect(page.locator(".joint")).to_have_count(36)
    flat = [v for x, y in ((10 + n, 20 + n) for n in range(18)) for v in (x, y, 0.9)]
    theirs = {"people": [{"pose_keypoints_2d": [*flat[:51], 0, 0, 0]}], "canvas_width": 100, "canvas_height": 50}
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    page.set_input_files("[data-file]", tmp_path / "theirs.json")
    expect(joint(page, 0)).to_have_attribute("aria-label", "Nose, 10% across, 40% down")
    expect(joint(page, 17)).to_have_attribute("aria-label", "Left ear, not seen")

    watch.refusals_expected = True
    (tmp_path / "bad.json").write_text('{"people": [[1, 2]]}')
    page.set_input_files("[data-file]", tmp_path / "bad.json")
    expect(page.locator("[data-file-problem]")).to_contain_text("people of 1 points (a list of points)")


def test_what_a_file_leaves_out_is_said_and_a_large_photo_is_made_smaller(
    page: Page, watch: Watch, tmp_path: Path
) -> None:
    theirs = Path(__file__).parents[1] / "strangers" / "poses"
    page.set_input_files("[data-file]", theirs / "comfyui_two_frames.json")
    expect(page.locator("[data-file-problem]")).to_contain_text("2 frames: the first one was used")
    expect(joint(page, 0)).to_have_attribute("aria-label", "Nose, 47% across, 15% down")
    watch.refusals_expected = True
    page.set_input_files("[data-file]", theirs / "openpose_coco.json")
    expect(page.locator("[data-file-problem]")).to_contain_text("does not say of how large a picture")
    page.fill("[data-size-width]", "640")
    page.fill("[data-size-height]", "400")
    page.click("[data-file-size] button")
    expect(page.locator("[data-file-size]")).to_be_hidden()
    expect(joint(page, 2)).to_have_attribute("aria-label", "Right shoulder, 41% across, 26% down")

    page.check("[name=pose-mode][value=picture]", force=True)
    expect(page.locator("[data-limits]")).to_contain_text("up to 64 MiB")
    Image.new("RGB", (5712, 4284), "tan").save(tmp_path / "telephone.jpg")
    write(page, "as in the photo", steps="4")
    page.set_input_files("[data-file]", tmp_path / "telephone.jpg")
    expect(page.locator("[data-picture-name]")).to_contain_text("5712 × 4284")
    page.click("[type=submit]")
    picture_is_shown(page, 1)
    body = watch.sent[-1].post_data_buffer
    assert body is not None
    with Image.open(io.BytesIO(body[body.index(b"\xff\xd8\xff") :])) as sent:
        assert sent.size == (2048, 1536)

    page.set_input_files("[data-file]", theirs.parent / "pictures" / "skeleton_grey.png")
    expect(page.locator("[data-kind-warning]")).to_contain_text("its limbs have no colours")


def test_hands_and_faces_of_a_file_are_shown_moved_and_sent(page: Page, watch: Watch, tmp_path: Path) -> None:
    body = [[0.3 + 0.02 * index, 0.1 + 0.04 * index] for index in range(18)]
    hand = [[0.7 + 0.005 * index, 0.3] for index in range(21)]
    face = [[0.4 + 0.001 * index, 0.2] for index in range(68)]
    pose = {"people": [body], "format": "coco18", "hands": [[hand, None]], "face": [face]}
    (tmp_path / "pose.json").write_text(json.dumps(pose))
    page.set_input_files("[data-file]", tmp_path / "pose.json")
    expect(page.locator(".details circle")).to_have_count(21 + 68)
    drag(page, LEFT_WRIST, 0.1, 0.05)
    write(page, "a dancer with hands", steps="4")
    page.click("[type=submit]")
    picture_is_shown(page)
    sent = watch.sent[-1].post_data_json["pose"]
    x, y = body[LEFT_WRIST]
    assert sent["people"][0][LEFT_WRIST] == pytest.approx([x + 0.1, y + 0.05], abs=0.01)
    assert sent["hands"][0][0][0] == pytest.approx([0.8, 0.35], abs=0.01), "a hand goes with its wrist"
    assert sent["hands"][0][1] is None
    assert sent["face"][0][67] == pytest.approx(face[67], abs=0.001)
    with page.expect_download() as saved:
        page.click("[data-tool=export-png]")
    saved.value.save_as(tmp_path / "pose.png")
    with Image.open(tmp_path / "pose.png") as drawn:
        place = (int(sent["people"][0][17][0] * drawn.width), int(sent["people"][0][17][1] * drawn.height))
        red, green, _ = drawn.convert("RGB").getpixel(place)  # type: ignore[misc]
        corner = drawn.convert("RGB").getpixel((drawn.width - 1, 0))
    assert red > 150 > 60 > green
    assert corner == (0, 0, 0)


def test_figures_that_are_added_lie_apart(page: Page) -> None:
    for _ in range(4):
        page.click("[data-tool=add]")
    page.click("[data-tool=duplicate]")
    expect(page.locator(".joint")).to_have_count(6 * 18)
    labels = [joint(page, 1, figure).get_attribute("aria-label") for figure in range(6)]
    across = sorted(int(re.findall(r"(\d+)% across", str(label))[0]) for label in labels)
    assert min(right - left for left, right in pairwise(across)) >= 8, across


def test_a_joint_is_dragged_up_and_down_by_touch(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(site.gateway.url)
    dot = joint(page, RIGHT_WRIST).locator(".dot")
    dot.scroll_into_view_if_needed()
    box, stage = dot.bounding_box(), page.locator(".stage").bounding_box()
    assert box is not None
    assert stage is not None
    before = str(joint(page, RIGHT_WRIST).get_attribute("aria-label"))
    scrolled = page.evaluate("scrollY")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touches = context.new_cdp_session(page)
    touches.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 11):
        point = {"x": x, "y": y - step * stage["height"] / 50}
        touches.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    down = [
        int(re.findall(r"(\d+)% down", text)[0])
        for text in (before, str(joint(page, RIGHT_WRIST).get_attribute("aria-label")))
    ]
    assert down[0] - down[1] == pytest.approx(20, abs=2)
    assert page.evaluate("scrollY") == scrolled
    context.close()


def test_the_stage_follows_the_size_and_keeps_proportions(page: Page) -> None:
    page.click(".settings summary")
    before = page.locator(".stage").inner_html()
    page.select_option("#size", "1216x832")
    box = page.locator(".stage").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(1216 / 832, rel=0.01)
    page.select_option("#size", "model")
    assert rounded(page.locator(".stage").inner_html()) == rounded(before)


def rounded(html: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3f}", html)


def test_a_result_is_the_beginning_of_the_next(page: Page, watch: Watch) -> None:
    write(page, "first", steps="5", seed="7")
    page.click("[title='Sitting']")
    page.click("[type=submit]")
    tile = picture_is_shown(page)
    page.click("[data-tool=reset]")
    page.fill("#prompt", "something else")
    tile.get_by_title("Use this pose and prompt").click()
    expect(page.locator("#prompt")).to_have_value("first")
    tile.get_by_title("Again with another seed").click()
    picture_is_shown(page, 2)
    first, second = watch.requests
    assert second["pose"] == first["pose"]
    assert second["seed"] != first["seed"]
    assert second["request_id"] != first["request_id"]


def test_no_pose_sends_none_and_the_fleet_is_shown(page: Page, watch: Watch) -> None:
    page.get_by_label("No pose").check()
    expect(page.locator(".stage")).to_be_hidden()
    write(page, "an empty stage", steps="4")
    page.click("[type=submit]")
    picture_is_shown(page)
    [asked] = watch.requests
    assert "pose" not in asked
    expect(page.locator("[data-figure=completions_per_minute] [data-value]")).to_have_text(re.compile(r"\d"))
    expect(page.locator("[data-figure=lag_records] [data-value]")).to_have_text(re.compile(r"\d"))


def test_an_event_source_stops_after_the_completion(page: Page, watch: Watch) -> None:
    write(page, "a quick one", steps="2")
    page.click("[type=submit]")
    picture_is_shown(page)
    completions = page.evaluate(
        """id => new Promise(resolve => {
             const source = new EventSource(`v1/generations/${id}/events`);
             let completions = 0;
             source.addEventListener("completion", () => (completions += 1));
             source.addEventListener("error", () => source.readyState === EventSource.CLOSED && resolve(completions));
           })""",
        watch.requests[0]["request_id"],
    )
    assert completions == 1


def test_what_is_painted_anew_or_late_promises_nothing(page: Page) -> None:
    said = page.evaluate(
        """async () => {
             const { running } = await import("./page/follow.js");
             const { whereabouts } = await import("./page/wording.js");
             const now = Date.now();
             const job = { begun: { at: now - 1000, done: 0 }, progress: { done: 9, total: 10 }, etaAt: now + 5 };
             const further = running(job, { steps_done: 10, steps_total: 20 });
             const anew = running(job, { steps_done: 1, steps_total: 20 });
             const at = (etaAt) => whereabouts({ status: "running", etaAt }, now);
             return [further.etaAt > now, anew.etaAt, anew.begun.done, at(now + 5000), at(now), at(now - 60000)];
           }"""
    )
    assert said == [True, None, 1, "done in about 5.0 s", "done any moment", "later than expected"]


def test_without_a_worker_the_page_says_so_and_promises_nothing(page: Page) -> None:
    deserted = {"workers": 0, "last_work_s": 40.0, "lag_records": 3, "eta_s": None, "completions_per_minute": 9.0}
    page.route("**/v1/fleet", lambda route: route.fulfill(json={**deserted, "active": 0}))
    expect(page.locator("#fleet [data-note]")).to_have_text("no worker is running, 3 waiting")
    write(page, "a long wait", steps="150")
    page.click("[type=submit]")
    expect(page.locator(".card .where").first).to_contain_text("no worker is running")
    page.unroute("**/v1/fleet")
    expect(page.locator("#fleet [data-note]")).to_contain_text("1 worker")
    page.get_by_role("button", name="Cancel").first.click()


def test_a_gateway_with_keys_is_signed_in_to_and_paints_for_the_keys_tenant(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    """With the gateway's own access control and its own content security policy."""
    keys = tmp_path / "keys.jsonl"
    keys.touch()
    command = [sys.executable, "-m", "darkroom", "keys", "new", "--tenant", "studio", "--file", str(keys), "--json"]
    key = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["key"]
    gateway = GatewayProcess({**site.fleet.environment, "DARKROOM_ACCESS__KEYS_FILE": str(keys)}, tmp_path)
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    try:
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "Security Policy" in message.text else None)
        page.goto(gateway.url)
        dialog = page.locator("#sign-in")
        expect(dialog).to_be_visible()
        for tried in (f"{key[:-1]}{'x' if key[-1] != 'x' else 'y'}", key):
            page.fill("#key", tried)
            page.keyboard.press("Enter")
            if tried != key:
                expect(dialog.locator("[data-note]")).not_to_be_empty()
        expect(dialog).to_be_hidden()
        expect(page.locator("#account")).to_contain_text("studio")
        page.reload()
        write(page, "for the studio", steps="4")
        page.click("[type=submit]")
        source = picture_is_shown(page).locator("img").get_attribute("src")
        assert source is not None
        cookies = context.cookies()
        assert [cookie["httpOnly"] for cookie in cookies] == [True]
        page.click("[data-sign-out]")
        expect(dialog).to_be_visible()
        assert page.request.get(urljoin(gateway.url, source)).status == 401
        assert problems == []
    finally:
        context.close()
        gateway.stop()


def test_the_picture_is_the_one_that_is_stored(page: Page) -> None:
    write(page, "to be saved", steps="4")
    page.click("[type=submit]")
    tile = picture_is_shown(page)
    with page.expect_download() as saved:
        tile.get_by_title("Save the picture").click()
    with Image.open(io.BytesIO(Path(saved.value.path()).read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
