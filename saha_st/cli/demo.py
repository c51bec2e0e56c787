"""Try an embedder in the browser: search, what the prompt does, and what mining throws out.

  saha-st demo
  saha-st demo --model org/saha --gallery photos

Nothing needs to be downloaded for the first. The gallery is encoded once; its vectors are kept for the next time. The
same app runs as a Space, see spaces_demo/.
"""

from __future__ import annotations

import argparse
import errno
import socket
from dataclasses import fields

NAME = "demo"
HELP = "try an embedder in the browser"
IF_INTERRUPTED = "Vectors that were encoded are kept."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--model", default="saha-tiny", help="Hub id, folder, or an embedded model")
    parser.add_argument(
        "--gallery", default="scenes", help="folder of pictures, table file, Hub dataset; scenes: generated ones"
    )
    parser.add_argument("--image_column", help="column of pictures in a table or dataset; 'image' if there is one")
    parser.add_argument("--text_column", help="column of their captions; 'text' if there is one")
    parser.add_argument("--subset", help="configuration of a Hub dataset")
    parser.add_argument("--split", default="train", help="split of the dataset")
    parser.add_argument("--max_pictures", type=int, default=300, help="show at most so many pictures")
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument("--device", help="torch device; the best available if not given")
    parser.add_argument("--cache", help="folder for vectors; in the user's cache folder if not given")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: every network")
    parser.add_argument("--port", type=int, help="port to listen on; the first free one from 7860 if not given")
    parser.add_argument("--share", choices=("no", "yes"), default="no", help="yes: a public link through gradio.live")
    parser.add_argument("--open", action="store_true", help="open the browser")


def run(args: argparse.Namespace) -> int:
    """Build the app and serve it until it is interrupted."""
    from saha_st.cli.options import require_device, require_model
    from saha_st.demo import DemoSettings

    settings = DemoSettings(**{field.name: getattr(args, field.name) for field in fields(DemoSettings)})
    settings.require_sources()
    _require_free(args.host, args.port)
    require_model(settings.model, settings.revision)
    print("Loading …", flush=True)
    require_device(settings.device)
    from saha_st.demo import build_demo, launch_options  # and torch, now that nothing is wrong with the flags

    demo = build_demo(settings, show_progress_bar=not args.quiet)
    _, url, public = demo.launch(
        **launch_options(),
        server_name=args.host,
        server_port=args.port,
        share=args.share == "yes",
        inbrowser=args.open,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"The demo is at {public or url}  (Ctrl+C ends it)", flush=True)
    demo.block_thread()
    return 0


def _require_free(host: str, port: int | None) -> None:
    """See that the port can be listened on, before the model is loaded."""
    if port is None:
        return
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must lie between 1 and 65535, got {port}. Leave it out for the first free one.")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is in use by another program" if taken else f"cannot be listened on ({error.strerror})"
            raise OSError(
                f"--port {port} of {host} {reason}. Choose another, or leave --port out for the first free one from "
                "7860."
            ) from error
