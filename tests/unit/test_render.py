import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from flashinfer_jit.errors import InvalidSettingError, UnsupportedConfigError
from flashinfer_jit.jit import render as render_module
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.render import render, templates_dir
from flashinfer_jit.jit.tiling import candidates
from support.vector_add import vector_add_key


def prefill_key(arch: str) -> KernelKey:
    config = AttentionConfig("prefill", "bfloat16", "bfloat16", "bfloat16", 128, 128, 4, "causal")
    return KernelKey(config, candidates(config, ARCHS[arch])[0], ARCHS[arch])


def test_the_text_states_its_configuration_and_nothing_of_this_machine(arch: str) -> None:
    text = render(prefill_key(arch))
    assert text.startswith(f"// {prefill_key(arch).kernel_name}: generated for {arch} ")
    assert re.search(r"^//   group_size +4$", text, re.M)
    assert re.search(r"^//   mask_mode +causal$", text, re.M)
    assert str(Path.home()) + "/" not in text and str(templates_dir()) not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b", text)
    assert not re.search(r"\{\{|\{%|\{#", text)


def test_rendering_in_another_process_gives_the_same_text(arch: str) -> None:
    script = "import sys; from flashinfer_jit.jit import render, key; import json\n"
    script += "sys.stdout.write(render.render(key.key_from_dict(json.loads(sys.argv[1]))))"
    argv = [sys.executable, "-c", script, prefill_key(arch).canonical_json()]
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == render(prefill_key(arch))


def test_templates_come_from_the_package_when_it_has_them(tmp_path, monkeypatch) -> None:
    package = tmp_path / "site-packages" / "flashinfer_jit"
    (package / "jit").mkdir(parents=True)
    monkeypatch.setattr(render_module, "__file__", str(package / "jit" / "render.py"))
    assert templates_dir() == package.parent / "templates"
    (package / "templates").mkdir()
    assert templates_dir() == package / "templates"


def test_a_template_directory_of_ones_own_wins_and_the_rest_stays(tmp_path, monkeypatch) -> None:
    shutil.copy(templates_dir() / "prefill.hip.j2", tmp_path / "prefill.hip.j2")
    with open(tmp_path / "prefill.hip.j2", "a") as own:
        own.write("// mine\n")
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(tmp_path))
    assert render(prefill_key("gfx942")).endswith("// mine\n")


def test_a_template_directory_that_does_not_exist_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(tmp_path / "typo"))
    with pytest.raises(InvalidSettingError, match="FLASHINFER_JIT_TEMPLATE_DIR.*typo.*expected a directory"):
        render(prefill_key("gfx942"))


def test_a_missing_template_says_where_it_was_looked_for() -> None:
    with pytest.raises(UnsupportedConfigError, match=r"no template 'vector_add\.hip\.j2'.*templates"):
        render(vector_add_key())


def test_an_unset_name_in_a_template_is_an_error(tmp_path, monkeypatch) -> None:
    (tmp_path / "vector_add.hip.j2").write_text("{{ config.typo }}")
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(tmp_path))
    with pytest.raises(jinja2.UndefinedError, match="typo"):
        render(vector_add_key())
