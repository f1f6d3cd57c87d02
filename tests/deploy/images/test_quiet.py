"""Pillow's warnings are kept from everybody, and nobody's filters are changed for good."""

import threading
import warnings

import pytest
from PIL import Image

from edgecl_deploy.images.quiet import quiet


def bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)


def test_only_pillow_is_quiet_and_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb(monkeypatch)
    before = list(warnings.filters)
    with quiet():
        Image._decompression_bomb_check((4, 4))
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)
    assert warnings.filters == before
    with pytest.raises(Image.DecompressionBombWarning):
        Image._decompression_bomb_check((4, 4))


def test_threads_that_overlap_leave_the_filters_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb(monkeypatch)
    before = list(warnings.filters)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    failed: list[BaseException] = []

    def second() -> None:
        first_is_in.wait(9)
        with quiet():
            second_is_in.set()
            first_is_out.wait(9)
            try:
                Image._decompression_bomb_check((4, 4))
            except Warning as error:
                failed.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    with quiet():
        first_is_in.set()
        assert second_is_in.wait(9)
    first_is_out.set()
    thread.join(9)
    assert not failed
    assert warnings.filters == before


def test_filters_that_somebody_replaced_meanwhile_are_left_alone() -> None:
    with warnings.catch_warnings():
        with quiet():
            warnings.resetwarnings()
        assert warnings.filters == []
