

def test_the_backend_of_a_notebook_is_no_matter(tmp_path):
    import os
    import subprocess
    import sys
    lines = ['{"step": %d, "images": %d, "accuracy": 0.5}' % (i, i) for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-c", "import sys; from fpgan.cli.app import main; sys.exit(main())", "plot", str(tmp_path),
               "--out", str(tmp_path / "x.png"), "--metrics", "accuracy"]
    run = subprocess.run(command, capture_output=True, text=True,
                         env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    assert "Traceback" not in run.stderr and "backend" not in run.stderr
