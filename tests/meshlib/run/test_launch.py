"""`launch`, with real processes that a fake integration patches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from meshlib.errors import ControlPlaneError, SettingsError
from meshlib.run.program import FOLDER, identity, joined_environment
from meshlib.runtime.settings import Settings
from tests.support.control import admin_token, in_thread

LAUNCH = "import os, sys; from meshlib.run import launch; sys.exit(launch(sys.argv[1:], os.environ))"
TOKEN = "e30.eyJzdWIiOiAic3lzdGVtOnNlcnZpY2VhY2NvdW50OmRlZmF1bHQ6Ym9va2luZm8tcmV2aWV3cyJ9.x"  # its sub is a service account

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on PYTHONPATH with a library, `waiter`, and an integration that patches it."""
    folder = tmp_path / "site"
    info = folder / "waiter_integration-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waiter-integration\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[meshlib.integrations]\nwaiter = waiter_integration:patch\n")
    (folder / "waiter.py").write_text("def serve():\n    return 'plain'\n")
    (folder / "waiter_integration.py").write_text("def patch(module):\n    module.serve = lambda: 'meshed'\n")
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Launches a command in that environment."""

    def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MESHLIB_", "COV_"))}
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        defaults = {"PYTHONPATH": str(site), "PATH": path, "MESHLIB_HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", LAUNCH, *command],
            env=inherited | defaults | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def warnings(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said on stderr beside the banner."""
    return [line for line in result.stderr.splitlines() if " joins " not in line]


def test_a_module_is_patched_when_it_is_imported(run: Run) -> None:
    """The program is unmodified; one line on stderr tells that it has joined, and as whom."""
    result = run(
        "python",
        "-c",
        "import waiter; print(waiter.serve())",
        MESHLIB_SERVICE="reviews",
        MESHLIB_PORT="9080",
        MESHLIB_TOKEN=TOKEN,
    )
    assert (result.returncode, result.stdout) == (0, "meshed\n")
    (banner,) = result.stderr.splitlines()
    assert banner.startswith("meshlib: reviews.default (")
    assert "joins 127.0.0.1:15012 as spiffe://cluster.local/ns/default/sa/bookinfo-reviews; watching " in banner
    assert "waiter" in banner


@pytest.mark.parametrize("how", ["script", "module", "console script", "child"])
def test_every_way_to_start_python_is_patched(run: Run, site: Path, tmp_path: Path, how: str) -> None:
    """`python app.py`, `python -m app`, an installed command, and processes that the program starts."""
    program = "import waiter; print(waiter.serve())\n"
    (tmp_path / "app.py").write_text(program)
    (site / "application.py").write_text(program)
    (tmp_path / "serve").write_text(f"#!{sys.executable}\n{program}")
    (tmp_path / "serve").chmod(0o755)
    child = "import subprocess, sys; subprocess.run([sys.executable, 'app.py'], check=True)"
    commands = {
        "script": ("python", "app.py"),
        "module": ("python", "-m", "application"),
        "console script": ("./serve",),
        "child": ("python", "-c", child),
    }
    result = run(*commands[how])
    assert (result.returncode, result.stdout, warnings(result)) == (0, "meshed\n", [])


def test_a_module_that_was_imported_before_is_patched_at_once(run: Run, site: Path) -> None:
    """A `.pth` file or another sitecustomize may come first."""
    result = run(
        "python", "-c", "import waiter; from meshlib.run import hooks; hooks.install(); print(waiter.serve())", MESHLIB_RUN="x"
    )
    assert result.stdout == "meshed\n"


def test_nothing_is_loaded_before_a_module_of_interest_is_imported(run: Run) -> None:
    """Every Python process of the tree pays for one finder, not for a mesh."""
    code = "import sys; print({'meshlib', 'wrapt', 'importlib.metadata', 'typing'} & set(sys.modules))"
    bare = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert run("python", "-c", code).stdout == bare


def test_the_program_replaces_the_launcher(run: Run) -> None:
    """No parent process: signals and exit codes are the program's own."""
    result = run("sh", "-c", "echo $$; exit 7")
    assert result.returncode == 7
    assert f"-{result.stdout.strip()})" in result.stderr  # the instance is named after the process


def test_a_command_that_does_not_exist_is_answered_as_a_shell_would(run: Run) -> None:
    """127 and a sentence."""
    result = run("gunicron", "app:app")
    assert result.returncode == 127
    assert "gunicron: command not found" in result.stderr


def test_a_file_that_is_no_program_is_answered_as_a_shell_would(run: Run, tmp_path: Path) -> None:
    """126 and the system's reason."""
    (tmp_path / "app.py").write_text("print()")
    result = run("./app.py")
    assert result.returncode == 126
    assert "./app.py: cannot be executed: Permission denied" in result.stderr


def test_another_sitecustomize_is_loaded_too(run: Run, site: Path) -> None:
    """Coverage, distributions and OpenTelemetry use it as well; it finds itself under its own name."""
    (site / "sitecustomize.py").write_text("import builtins\nbuiltins.customized = __file__\n")
    code = "import sitecustomize, waiter; print(customized == sitecustomize.__file__, waiter.serve())"
    assert run("python", "-c", code).stdout == "True meshed\n"


def test_a_failing_integration_is_one_warning(run: Run, site: Path) -> None:
    """The program goes on unpatched, and is told how to silence the warning."""
    (site / "waiter_integration.py").write_text("def patch(module):\n    raise AttributeError('no serve')\n")
    result = run("python", "-c", "import waiter; print(waiter.serve())")
    assert (result.returncode, result.stdout) == (0, "plain\n")
    (warning,) = warnings(result)
    assert warning.startswith("meshlib: waiter is not in the mesh: AttributeError: no serve. ")
    assert warning.endswith("set MESHLIB_DISABLED_INTEGRATIONS=waiter")


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A control plane, as the environment that joins it."""
    with in_thread(tmp_path) as plane:
        api = httpx.Client(base_url=plane.current.api, headers={"authorization": f"Bearer {admin_token(plane)}"})
        with api:
            token = api.post("/v1/tokens", json={"serviceAccount": "bookinfo-reviews"}).json()["token"]
        yield {
            "MESHLIB_CONTROL_PLANE": plane.current.xds,
            "MESHLIB_ROOT_CERT": plane.current.root_cert,
            "MESHLIB_TOKEN": token,
            "MESHLIB_STRICT": "yes",
        }


def test_strict_starts_a_program_that_can_join(run: Run, joining: dict[str, str]) -> None:
    """Also one that never uses the mesh. Nothing is left of the question: the program has one thread and three files."""
    code = "import os; print(os.listdir('/proc/self/task').__len__(), len(os.listdir('/proc/self/fd')))"
    result = run("python", "-c", code, **joining)
    assert (result.returncode, result.stdout) == (0, "1 4\n")  # the fourth is the folder that is listed


def test_strict_does_not_start_a_program_without_a_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """69 and a sentence that says who is away and what to do; the program never runs."""
    from meshlib.run import launch, strict

    monkeypatch.setattr(strict, "PATIENCE", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        environ = {"MESHLIB_CONTROL_PLANE": place, "MESHLIB_STRICT": "1", "MESHLIB_HOME": str(tmp_path)}
        assert launch(["true"], {"PATH": os.environ["PATH"], **environ}) == 69
    said = capfd.readouterr().err
    assert f"the control plane at {place} cannot be reached" in said
    assert "Start it with `meshlib controlplane`, or set MESHLIB_CONTROL_PLANE" in said
    assert said.endswith("MESHLIB_STRICT is set: true was not started\n")


def test_strict_does_not_wait_with_a_wrong_token(run: Run, joining: dict[str, str]) -> None:
    """Waiting would not make it right."""
    begin = time.monotonic()
    result = run("true", **joining | {"MESHLIB_TOKEN": TOKEN})
    assert result.returncode == 69
    assert "refused the token" in result.stderr
    assert "meshlib token create" in result.stderr
    assert time.monotonic() - begin < 8


def test_strict_waits_for_a_control_plane_that_is_about_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again until its patience ends, with pauses between."""
    from meshlib.run import strict
    from meshlib.runtime.ca import CertificateAuthority

    def issue(self: object, lifetime: float) -> None:
        raise ControlPlaneError("away")

    monkeypatch.setattr(CertificateAuthority, "issue", issue)
    waits: list[float] = []
    problem = strict.refusal(Settings(), lambda: sum(waits), waits.append)
    assert str(problem) == "away"
    assert len(waits) > 3
    assert strict.PATIENCE / 3 < sum(waits) <= strict.PATIENCE


def test_strict_ends_a_program_whose_integration_fails(run: Run, site: Path, joining: dict[str, str]) -> None:
    """MESHLIB_STRICT: better no service than one outside of the mesh."""
    (site / "waiter_integration.py").write_text("def patch(module):\n    raise AttributeError('no serve')\n")
    result = run("python", "-c", "import waiter; print(waiter.serve())", **joining)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no serve" in result.stderr


def test_a_disabled_integration_leaves_its_module_alone(run: Run) -> None:
    """MESHLIB_DISABLED_INTEGRATIONS names modules; the banner does not list them."""
    result = run("python", "-c", "import waiter; print(waiter.serve())", MESHLIB_DISABLED_INTEGRATIONS="waiter, other")
    assert result.stdout == "plain\n"
    assert "waiter" not in result.stderr


def test_a_disabled_mesh_changes_nothing(run: Run) -> None:
    """MESHLIB_ENABLED=0: the program as it is, without a banner."""
    result = run("python", "-c", "import waiter; print(waiter.serve())", MESHLIB_ENABLED="0")
    assert (result.stdout, result.stderr) == ("plain\n", "")


BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "meshlib.run.hooks":
            raise ImportError("no module named meshlib")
sys.meta_path.insert(0, Broken())
"""


def test_an_environment_without_meshlib_is_one_warning_for_all_processes(run: Run, site: Path) -> None:
    """Another virtual environment's Python goes on; its children do not repeat the warning."""
    (site / "sitecustomize.py").write_text(BROKEN)
    code = "import subprocess, waiter; print(waiter.serve(), flush=True); subprocess.run(['python', '-c', 'import waiter'])"
    result = run("python", "-c", code)
    assert (result.returncode, result.stdout) == (0, "plain\n")
    (warning,) = warnings(result)
    assert "goes on without the mesh: ImportError: no module named meshlib" in warning


def test_strict_ends_a_program_without_meshlib(run: Run, site: Path, joining: dict[str, str]) -> None:
    """One line, no traceback."""
    (site / "sitecustomize.py").write_text(BROKEN)
    result = run("python", "-c", "import waiter; print(waiter.serve())", **joining)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = warnings(result)
    assert "cannot join the mesh: no module named meshlib" in line


def test_work_given_to_a_thread_pool_keeps_the_request(run: Run) -> None:
    """Forwarded headers and the trace survive executors; outside of a request nothing changes."""
    code = """
    import waiter, contextvars
    from concurrent.futures import ThreadPoolExecutor
    from meshlib.telemetry import context
    own = contextvars.ContextVar("own", default="unset")
    with ThreadPoolExecutor(1) as pool:
        own.set("set")
        before = pool.submit(own.get).result()
        context.enter(context.RequestContext("id", "1" * 32, "2" * 16))
        print(before, pool.submit(own.get).result(), pool.submit(context.current).result().request_id)
    """
    result = run("python", "-c", textwrap.dedent(code))
    assert (result.stdout, warnings(result)) == ("unset set id\n", [])


def test_a_wrong_setting_is_said_before_anything_starts() -> None:
    """The error names the variable; nothing was executed."""
    from meshlib.run import launch

    with pytest.raises(SettingsError, match="MESHLIB_PORT"):
        launch(["true"], {"MESHLIB_PORT": "http"})


def test_our_folder_comes_first_and_once() -> None:
    """A nested `meshlib run` does not pile up."""
    environ = joined_environment({"PYTHONPATH": f"/a{os.pathsep}{FOLDER}"}, Settings(service="reviews", instance="r-1"))
    assert environ["PYTHONPATH"] == f"{FOLDER}{os.pathsep}/a"
    assert environ["MESHLIB_INSTANCE"] == "r-1"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (TOKEN, "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"),
        ("opaque", "whoever its credential names"),
        ("a.!!!.c", "whoever its credential names"),
        ("", "nobody (no join token)"),
    ],
)
def test_the_banner_says_who_the_credential_names(token: str, said: str) -> None:
    """A JWT's subject is read; anything else is not guessed at."""
    assert identity(Settings(token=token)) == said


def test_the_banner_says_that_the_token_cannot_be_read(tmp_path: Path) -> None:
    """A missing file is said at once, with its variable."""
    assert "MESHLIB_TOKEN_FILE" in identity(Settings(token_file=str(tmp_path / "none")))


def test_opentelemetry_may_load_us() -> None:
    """Below `opentelemetry-instrument`, whose sitecustomize does not load the next one, an entry point installs the hooks."""
    code = "from meshlib.run import hooks; hooks.opentelemetry(); print(hooks._installed)"
    for watched, said in (("httpx", "True\n"), (None, "False\n")):
        environ = (
            {**os.environ, "MESHLIB_RUN": watched} if watched else {k: v for k, v in os.environ.items() if k != "MESHLIB_RUN"}
        )
        assert (
            subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout
            == said
        )


def test_below_opentelemetry_instrument_modules_are_patched(run: Run) -> None:
    """Its sitecustomize hides ours, and calls us by the entry point after its own instrumentors."""
    code = "import sys, waiter; print(waiter.serve(), 'opentelemetry.instrumentation.auto_instrumentation' in sys.modules)"
    result = run("opentelemetry-instrument", "python", "-c", code, OTEL_SDK_DISABLED="true")
    assert result.stdout == "meshed True\n", result.stderr
