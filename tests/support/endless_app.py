"""The lab's application with handlers that keep the interpreter to themselves."""

from tests.support.lab import FILES

MAIN = (
    FILES["main.py"]
    .replace("import json\n", "import json\nimport re\n")
    .replace(
        '    elif path == "/fill":',
        '    elif path == "/endless":\n        re.match(r"(a+)+$", "a" * 64 + "b")\n'
        '    elif path == "/busy":\n        time.sleep(4)\n        hold(float(fields.pop("seconds")))\n'
        '    elif path == "/fill":',
    )
    .replace(
        "def app(",
        'def hold(seconds):\n    """Keep the interpreter, as a long call into C does."""\n'
        "    import ctypes\n    ctypes.PyDLL(None).usleep(int(seconds * 1e6))\n\n\ndef app(",
    )
)
