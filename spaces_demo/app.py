"""The demo as a Space: runs on the Hub as it lies here, and locally with `python app.py`. See README.md."""

try:
    import spaces  # noqa: F401  on a ZeroGPU it must come before torch; elsewhere it need not be there
except ImportError:
    pass

from saha_st.demo import build_demo, launch_options

demo = build_demo()

if __name__ == "__main__":
    demo.launch(**launch_options())
