"""The page of `alexnet_jax.explore`: Gradio on this machine alone, with nothing from elsewhere.

Gradio is asked for no analytics and no fonts, and the browser is told to refuse whatever does not
come from here. A request that calls this machine by another name, as one from a foreign page could,
gets no answer. What is dropped onto the page lies in a folder that is deleted at the end.
"""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.album import Album, album
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.evaluation.why import explain
from alexnet_jax.pictures import page

HOST = "127.0.0.1"
PICKS = 12  # images of the dataset to pick from
# Gradio's page has its scripts in the page itself and in blobs.
ONLY_FROM_HERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


class Explorer:
    """Networks that are asked about photos.

    Attributes:
        networks: by the names that a user picks from.
        albums: of each its dataset's images, where they are at hand.
    """

    def __init__(self, networks: Mapping[str, TrainedNetwork]) -> None:
        """Opens the datasets, and says which are not there."""
        self.networks = dict(networks)
        self.albums: dict[str, Album | None] = {}
        for name, network in networks.items():
            problem = "not prepared here"
            try:
                self.albums[name] = album(network)
            except UserError as error:
                self.albums[name], problem = None, str(error)
            if self.albums[name] is None:
                print(f"no neighbours for {name}: its dataset is not at hand ({problem})")

    def look(self, photo: Any, name: str) -> str:
        """What a network says of a photo and why, or why it cannot; HTML.

        Args:
            photo: the path of a file, or the number of an image of the network's dataset.
            name: of the network.
        """
        network, images = self.networks[name], self.albums[name]
        image: Any
        try:
            if isinstance(photo, int):
                assert images is not None
                called, image = f"image {photo} of the split {images.split}", images.picture(photo)
            else:
                called, image = os.path.basename(photo), Path(photo).read_bytes()
            found = explain(network, image)
            near = images.nearest(image) if images else []
        except UserError as error:
            return page.refused(f"{called}: {error}")
        among = ""
        if images:
            among = f"{len(images.numbers):,} images of the split {images.split}, by {images.layer}"
        return page.explained(called, found, network.classes, near, among)

    def picks(self, name: str) -> list[int]:
        """The numbers of a few images of a network's dataset; none where it is not at hand."""
        images = self.albums[name]
        return images.some(PICKS) if images else []

    def pictures(self, name: str) -> list[Any]:
        """Those images."""
        images = self.albums[name]
        return [images.picture(number) for number in self.picks(name)] if images else []


def blocks(explorer: Explorer) -> Any:
    """The page, as Gradio's `Blocks`."""
    import gradio as gr

    names = list(explorer.networks)

    def picked(event: gr.SelectData, name: str) -> tuple[int, str]:
        number = explorer.picks(name)[event.index]
        return number, explorer.look(number, name)

    def dropped(path: str, name: str) -> tuple[None, str, str]:
        return None, path, explorer.look(path, name)  # there is room for the next one

    def switched(photo: Any, name: str) -> tuple[Any, Any, str]:
        if isinstance(photo, int):  # of the other network's dataset
            photo = None
        gallery = gr.Gallery(explorer.pictures(name), visible=bool(explorer.picks(name)))
        return photo, gallery, page.NOTHING if photo is None else explorer.look(photo, name)

    with gr.Blocks(title="alexnet_jax", analytics_enabled=False) as made:
        photo = gr.State()
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                which = gr.Dropdown(names, value=names[0], label="network", visible=len(names) > 1)
                file = gr.File(label="a photo, or one of the dataset", height=160)
                gallery = gr.Gallery(
                    explorer.pictures(names[0]),
                    show_label=False,
                    elem_id="picks",
                    visible=bool(explorer.picks(names[0])),
                    columns=4,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                )
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(page.NOTHING, elem_id="answer", min_height=200)
        file.upload(dropped, [file, which], [file, photo, shown])
        gallery.select(picked, [which], [photo, shown])
        which.change(switched, [photo, which], [photo, gallery, shown])
    return made


@contextlib.contextmanager
def served(explorer: Explorer, port: int) -> Iterator[str]:
    """Serves the page until the context ends; its address.

    Args:
        explorer: what is asked.
        port: of this machine; 0 for any that is free.

    Raises:
        UserError: the port cannot be had.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"--port={port}: {reason}; give another, or --port=0 for any that is free"
        ) from error
    with listening, tempfile.TemporaryDirectory(prefix="alexnet_jax-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        server = _server(explorer)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the page could not be served")
                time.sleep(0.05)
            yield f"http://{HOST}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(1)


def _server(explorer: Explorer) -> Any:
    """What serves the page."""
    import fastapi
    import gradio as gr
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.middleware("http")
    async def only_from_here(request: fastapi.Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = ONLY_FROM_HERE
        return response

    own = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    theme = gr.themes.Default(font=own[0], font_mono=own[1])
    gr.mount_gradio_app(
        app, blocks(explorer), "/", theme=theme, css=page.STYLE, ssr_mode=False, footer_links=[]
    )
    return uvicorn.Server(uvicorn.Config(app, log_level="critical"))  # it complains of Ctrl-C
