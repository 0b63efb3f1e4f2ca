"""Demo in the browser: generate, paint, interpolate between images, and look inside.

Read it from top to bottom: options, models, a page of tabs, and the server. The tabs are in
`ddim_keras/demo/`, the options in `ddim_keras/cli/demo.py`.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import os
import signal
import socket
import sys
import tempfile
from typing import Any

from ddim_keras.cli.demo import DemoOptions, parse_arguments
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError

HOST = "127.0.0.1"


def main() -> None:
    options = parse_arguments()
    choose_backend(options.backend)
    require_free(options.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="ddim_keras_demo_") as folder:
        # Read when these are imported: no statistics, and all files in this folder.
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_OFFLINE": "1",
            "KERAS_HOME": folder,
            "MPLCONFIGDIR": folder,
        }
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise InputError('the demo needs Gradio: pip install -e ".[demo]"') from error
        import_keras()
        serve(options)


def require_free(port: int) -> None:
    """Raises InputError if no server can listen on the port; called before anything is loaded."""
    with socket.socket() as server:
        if os.name == "posix":  # as asyncio; on Windows a port in use would be shared
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from error


def serve(options: DemoOptions) -> None:
    """Starts the server and waits until it is interrupted."""
    from ddim_keras.demo.models import Models
    from ddim_keras.demo.page import CSS, THEME
    from ddim_keras.demo.server import MIDDLEWARE

    models = Models(options.precision, options.check_hashes, options.run)
    print("starting ...", flush=True)
    warm_up(models)
    blocks = page(models).queue(max_size=options.queue, api_open=False)
    _, address, _ = blocks.launch(
        server_name=HOST,
        server_port=options.port,
        theme=THEME,
        css=CSS,
        app_kwargs={"middleware": MIDDLEWARE},
        max_file_size="20mb",
        state_session_capacity=100,
        share=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"Running on {address} until Ctrl-C.", flush=True)
    blocks.block_thread()


def page(models: Any) -> Any:
    """The page: a tab for each way to use a model."""
    import gradio as gr

    from ddim_keras.demo.between_tab import between_tab
    from ddim_keras.demo.generate_tab import generate_tab
    from ddim_keras.demo.inside_tab import inside_tab
    from ddim_keras.demo.paint_tab import paint_tab

    tabs = {
        "Generate": generate_tab,
        "Paint": paint_tab,
        "Between": between_tab,
        "Inside": inside_tab,
    }
    with gr.Blocks(title="ddim_keras", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown("# Images out of noise")
        for name, build in tabs.items():
            with gr.Tab(name, render_children=True):
                build(models)
    return blocks


def warm_up(models: Any) -> None:
    """Generates an image once, so that the first visitor does not wait for compilation."""
    from ddim_keras.demo.generate_tab import words

    job = models.job(words(models, models.first, steps=1))
    job.images(lambda *frame: None)


if __name__ == "__main__":
    run_command(main)
