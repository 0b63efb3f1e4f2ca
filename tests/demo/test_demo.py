"""The demo: its commands and masks, its streams, and the page in a real browser."""

import dataclasses
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import app
import generate
from ddim_keras.config import InputError
from tests.helpers import make_run, run

pytest.importorskip("gradio", reason="needs Gradio: pip install -e .[demo]")

from ddim_keras.demo import between_tab, generate_tab, inside_tab, paint_tab
from ddim_keras.demo import page as page_module
from ddim_keras.demo.models import Models
from ddim_keras.demo.page import ANY_CLASS
from ddim_keras.demo.streaming import streamed
from ddim_keras.runs.manifest import sha256

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The models of a folder with one run, which is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        make_run(Path("runs/tiny"), num_classes=3)
        (Path("runs") / "empty").mkdir()
        yield Models("float32", check_hashes=True, first="runs/tiny")


class TestModels:
    def test_provided_ones_and_runs_with_weights_are_offered(self, models):
        assert models.names()[0] == "runs/tiny"
        assert "flowers" in models.names()
        assert not {"runs/empty", "__pycache__"} & {*models.names()}

    @pytest.mark.parametrize("class_name", ["rose", ANY_CLASS])
    def test_the_command_makes_the_same(self, models, class_name):
        line = generate_tab.words(models, "runs/tiny", class_name, 2, 3, "heun", 2.0, 7)
        images = models.job(line).images(lambda *frame: None)
        assert run(generate, *line, "--images-dir", class_name) == 0
        written = [np.asarray(Image.open(path)) for path in sorted(Path(class_name).glob("0*.png"))]
        np.testing.assert_allclose(np.stack(written), 255 * images, atol=1)

    def test_students_generate_alone_with_their_own_steps(self, models):
        run = make_run(Path("runs/student"), num_classes=3)
        config = run.read_config()
        student = dataclasses.replace(config.model, student_steps=(3,))
        run.save_config(dataclasses.replace(config, model=student))
        assert "runs/student" in models.names()
        assert "runs/student" not in models.names(with_students=False)
        job = models.job(generate_tab.words(models, "runs/student", guidance=2.0))
        assert (job.options.steps, job.guidance.strength) == (3, 0)

    def test_two_models_stay_in_memory(self, models):
        for number in range(3):
            make_run(Path(f"runs/other{number}"), num_classes=0, seed=number)
            models.job(generate_tab.words(models, f"runs/other{number}"))
        assert len(models._loaded) == 2

    def test_uploads_that_are_no_images_are_sentences(self, models, tmp_path):
        upload = tmp_path / "text.png"
        upload.write_text("no image")
        with pytest.raises(InputError, match=r"^text\.png cannot be read as an image") as caught:
            page_module.uploaded(models, "runs/tiny", str(upload))
        assert str(tmp_path) not in str(caught.value)

    def test_mistakes_are_sentences(self, models):
        with pytest.raises(InputError, match="not possible"):
            models.job(["--run", "runs/tiny", "--steps", "0"])
        with pytest.raises(InputError, match="there is no class 'tulip'"):
            models.job(["--run", "runs/tiny", "--class", "tulip"])


class TestStart:
    def test_a_port_out_of_range(self, capsys):
        for port in ("0", "99999"):
            assert run(app, "--port", port) == 2
            assert "argument --port: must be at" in capsys.readouterr().err

    def test_a_port_in_use(self):
        with socket.socket() as other:
            other.bind((app.HOST, 0))
            other.listen()
            port = other.getsockname()[1]
            assert "choose another with --port" in run(app, "--port", port)


class TestStreams:
    def frames_of(self, models, work):
        return streamed(models.job(["--run", "runs/tiny"]).model, work)

    def test_frames_come_while_it_works(self, models):
        images = np.zeros((1, 16, 16, 3), "float32")
        done = []

        def work(callback):
            for step in range(5):
                callback(step, images, images)
                done.append(step)

        frames = self.frames_of(models, work)
        assert next(frames).step == 0
        assert len(done) < 4  # one frame waits to be taken, and one to be handed over
        assert [frame.step for frame in frames] == [1, 2, 3, 4]
        assert done == [0, 1, 2, 3, 4]

    def test_closing_ends_the_work(self, models):
        images = np.zeros((1, 16, 16, 3), "float32")
        done = []

        def work(callback):
            for step in range(1000):
                callback(step, images, images)
                done.append(step)

        frames = self.frames_of(models, work)
        next(frames)
        frames.close()
        assert len(done) < 4
        assert threading.active_count() < 20

    def test_errors_arrive(self, models):
        def work(callback):
            raise InputError("no")

        with pytest.raises(InputError, match="no"):
            list(self.frames_of(models, work))


class TestPaint:
    def test_every_touched_pixel_is_in_the_mask(self):
        layer = np.zeros((512, 512, 4), "uint8")
        layer[100, 203, 3] = 255
        mask = paint_tab.mask_of({"layers": [Image.fromarray(layer)]}, 64)
        assert mask.shape == (64, 64, 1)
        np.testing.assert_array_equal(np.argwhere(mask[..., 0]), [[12, 25]])

    def test_nothing_painted(self):
        with pytest.raises(InputError, match="nothing is painted over"):
            paint_tab.mask_of({"layers": [Image.new("RGBA", (512, 512))]}, 64)


def test_between_two_classes_begins_and_ends_with_each(models):
    making, program = between_tab.making_of_classes(models, "runs/tiny", "rose", "sunflower", 3)
    assert list(making)
    assert len(making.result) == between_tab.NUM_IMAGES
    for end, label in ((0, 2), (-1, 0)):
        alone = making.job.model.generate(1, between_tab.STEPS, seed=3, labels=np.array([label]))
        np.testing.assert_allclose(making.result[end], alone[0], atol=1e-5)
    names = {}
    exec(program, names)
    np.testing.assert_allclose(names["images"], making.result, atol=1e-5)


def test_what_was_measured(models):
    assert "| KID |" not in inside_tab.measured("flowers")
    assert "| DDIM, no guidance |" in inside_tab.measured("flowers")
    assert "evaluate.py --run runs/tiny" in inside_tab.measured("runs/tiny")
    Path("runs/tiny/evaluation.csv").write_text("setting,steps,kid\nDDIM,5,0.25\n")
    assert inside_tab.measured("runs/tiny").splitlines()[-1] == "| DDIM | 5 | 0.2500 |"
    # Only what was measured like the last row, and of the present weights.
    digest = sha256(Path("runs/tiny/last.weights.h5"))
    Path("runs/tiny/evaluation.csv").write_text(
        "setting,steps,kid,split,weights_sha256\n"
        f"DDIM,5,0.25,train,{digest}\nDDIM,5,0.3,validation,earlier\n"
        f"DDIM,5,0.4,validation,{digest}\nDDIM,5,0.5,validation,earlier\n"
    )
    text = inside_tab.measured("runs/tiny")
    assert text.splitlines()[0] == "split: validation"
    assert [line for line in text.splitlines() if "DDIM" in line] == ["| DDIM | 5 | 0.4000 |"]


def test_what_the_page_cannot_use_is_a_sentence(models):
    with pytest.raises(InputError, match="prepared for another model"):
        page_module.require_fitting(models, "runs/tiny", np.zeros((64, 64, 3), "uint8"))
    page_module.require_fitting(models, "runs/tiny", np.zeros((16, 16, 3), "uint8"))
    with pytest.raises(InputError, match="two seeds are needed"):
        between_tab.making_of_seeds(models, "runs/tiny", ANY_CLASS, 1, None)
    with pytest.raises(page_module.gr.Error, match="no run nowhere"):
        page_module.in_a_sentence(inside_tab.measured)("nowhere")


# In a browser.


@pytest.fixture(scope="module")
def address(models):
    """The address of a running demo, whose folder and home stay empty except for its run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path("home").resolve()
    home.mkdir()
    command = [sys.executable, str(ROOT / "app.py"), "--run", "runs/tiny", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(home)}
    before = sorted(Path.cwd().rglob("*"))
    with subprocess.Popen(
        [*command, "--queue", "4"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        for line in server.stdout:
            if "Running on" in line:
                break
        else:
            pytest.fail("the demo ended")
        yield f"http://127.0.0.1:{port}"
        server.terminate()
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.fixture(scope="module")
def browser():
    """A headless browser, of the system or of Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path  # where `playwright install chromium` puts it
        path = next(filter(None, map(shutil.which, BROWSERS)), own)
        if not Path(path).exists():
            pytest.skip(f"needs a browser: {', '.join(BROWSERS)}, or playwright install chromium")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The demo's page; at the end every request must have been to it alone."""
    page = browser.new_page(viewport={"width": 1360, "height": 1100})
    page.set_default_timeout(120_000)
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(address)
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    yield page
    page.close()
    assert hosts - {""} == {urlsplit(address).netloc}


def visible(page, selector):
    return page.locator(f"{selector} >> visible=true")


@pytest.mark.slow
class TestPage:
    def test_generate(self, page):
        page.get_by_role("button", name="Generate", exact=True).click()
        visible(page, "text=Done").wait_for()
        assert page.locator("#live img").count() == 2
        command = visible(page, ".cm-content").inner_text()
        assert shlex.split(command)[:4] == ["python", "generate.py", "--run", "runs/tiny"]
        with page.expect_download() as download:
            page.get_by_text("Download the picture").click()
        with Image.open(download.value.path()) as picture:
            assert picture.width > picture.height > 100
        assert page.locator("#gallery button.thumbnail-item").count() == 1

    def test_stop(self, page):
        time.sleep(3)  # what the page sets when it is opened
        for name, value in (("Images", "32"), ("Steps", "50")):  # long enough to be stopped
            slider = page.get_by_label(f"number input for {name}").first
            slider.fill(value)
            slider.blur()
        time.sleep(3)
        for _ in range(4):  # a busy machine may be done before it stops
            page.get_by_role("button", name="Generate", exact=True).click()
            page.locator("text=/Network call . of 50/").first.wait_for()
            page.get_by_role("button", name="Stop").first.dispatch_event("click")
            before = None
            while (status := page.locator("#live .status").inner_text()) != before:
                before = status
                time.sleep(2)
            if "of 50" in status:
                return
        pytest.fail(f"not stopped: {status}")

    def test_paint(self, page):
        page.get_by_role("tab", name="Paint").click()
        page.get_by_role("button", name="Fill in").click()
        page.get_by_text("there is no image yet").wait_for()
        page.get_by_role("button", name="Generate one").click()
        canvas = page.locator("#editor canvas").first.bounding_box()
        time.sleep(10)  # the editor draws on its canvas, where nothing can be waited for
        x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 30, steps=5)
        page.mouse.up()
        time.sleep(2)
        page.get_by_role("button", name="Fill in").click()
        visible(page, "text=Done").wait_for()
        with page.expect_download() as download:
            page.get_by_text("Download pictures and command").click()
        shutil.unpack_archive(download.value.path(), "filled_in", "zip")
        command = shlex.split(Path("filled_in/command.sh").read_text())
        assert command[4:7] == ["--inpaint", "image.png", "mask.png"]
        with Image.open("filled_in/mask.png") as mask:
            assert mask.size == (16, 16)
            assert 0 < np.mean(np.asarray(mask)) < 255
        shutil.rmtree("filled_in")

    def test_between(self, page, tmp_path):
        page.get_by_role("tab", name="Between").click()
        page.get_by_role("button", name="Interpolate").click()
        visible(page, "text=Done").wait_for()
        assert visible(page, ".strip img").count() == 1
        middle = visible(page, ".pictures img").nth(1).get_attribute("src")
        slider = page.get_by_label("number input for From the first to the second")
        slider.fill("1")
        slider.blur()
        time.sleep(3)
        sources = [each.get_attribute("src") for each in visible(page, ".pictures img").all()]
        assert sources[1] == sources[2] != middle

        page.get_by_label("two photographs").click()
        files = page.locator("input[type=file]")
        broken = tmp_path / "broken.jpg"
        broken.write_text("no image")
        files.first.set_input_files(broken)
        page.get_by_text("cannot be read as an image").wait_for()
        for number, colour in enumerate(("orange", "navy")):
            picture = tmp_path / f"{colour}.png"
            Image.new("RGB", (40, 30), colour).save(picture)
            files.nth(number).set_input_files(picture)
            time.sleep(3)
        page.get_by_role("button", name="Interpolate").click()
        page.locator(".cm-content", has_text="--encode").wait_for()
        visible(page, "text=Done").wait_for()

    def test_inside(self, page):
        page.get_by_role("tab", name="Inside").click()
        page.get_by_role("button", name="Show steps").click()
        visible(page, "text=/Step 1 of 20: signal rate/").wait_for()
        page.get_by_role("button", name="Compare guidance").click()
        visible(page, ".strength >> nth=4").wait_for()

    def test_twenty_clicks_at_once(self, browser, address):
        pages = [browser.new_page() for _ in range(4)]
        for each in pages:
            each.goto(address)
            each.get_by_role("button", name="Generate", exact=True).wait_for()
        for _ in range(5):
            for each in pages:
                each.get_by_role("button", name="Generate", exact=True).click(no_wait_after=True)
        for each in pages:
            each.locator("text=Done").first.wait_for()
            each.close()

    def test_the_server_tells_the_browser_to_stay(self, address):
        with urllib.request.urlopen(address) as answer:
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert not re.search(rb"<(script|link)[^>]*https?://(?!127)", answer.read())
