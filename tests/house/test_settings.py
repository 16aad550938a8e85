"""Settings are read from the environment once, checked all together, and never guessed."""

import pytest
from pydantic import ValidationError

from app.settings import FORMATS, SHIPPED_MODEL, BadSettings, load_settings


def test_defaults() -> None:
    settings, warnings = load_settings({})
    assert settings.model == SHIPPED_MODEL
    assert (settings.host, settings.port, settings.device, settings.dtype) == ("127.0.0.1", 8000, "auto", "auto")
    assert (settings.max_upload_bytes, settings.max_pixels, settings.image_formats) == (64 * 2**20, 50_000_000, FORMATS)
    assert (settings.max_images_per_request, settings.max_tokens_per_image) == (64, 4096)
    assert (settings.request_timeout_s, settings.receive_timeout_s, settings.drain_timeout_s) == (30, 30, 20)
    assert warnings == []


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load_settings({"VITRINE_PORT": ""})[0].port == 8000


def test_flags_win_over_variables() -> None:
    assert load_settings({"VITRINE_PORT": "1"}, port="2")[0].port == 2


def test_formats_are_a_list_with_commas() -> None:
    assert load_settings({"VITRINE_IMAGE_FORMATS": "jpeg, tiff"})[0].image_formats == ("JPEG", "TIFF")


def test_what_kubernetes_injects_is_passed_over() -> None:
    injected = {
        "VITRINE_PORT": "tcp://10.0.0.1:80",
        "VITRINE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "VITRINE_PORT_80_TCP_ADDR": "10.0.0.1",
        "VITRINE_SERVICE_HOST": "10.0.0.1",
        "VITRINE_SERVICE_PORT": "80",
        "VITRINE_SERVICE_PORT_HTTP": "80",
    }
    settings, warnings = load_settings(injected)
    assert settings.port == 8000
    assert len(warnings) == len(injected)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "8000.5"),
        ("DEVICE", "gpu"),
        ("DTYPE", "fp16"),
        ("REQUEST_TIMEOUT_S", "nan"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("MAX_UPLOAD_BYTES", "10MB"),
        ("MAX_PIXELS", "0"),
        ("IMAGE_FORMATS", "JPEG,EPS"),
        ("DOCS", "perhaps"),
        ("MODLE", "x"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(variable: str, value: str) -> None:
    with pytest.raises(BadSettings) as bad:
        load_settings({f"VITRINE_{variable}": value})
    assert str(bad.value).startswith(f"VITRINE_{variable}=")
    assert len(str(bad.value).splitlines()) == 1


def test_settings_do_not_change() -> None:
    settings, _ = load_settings({})
    with pytest.raises(ValidationError):
        settings.port = 1
