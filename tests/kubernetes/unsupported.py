"""What this kubelet refuses to guess."""

from __future__ import annotations


class Unsupported(Exception):
    """The pod asks for something that is not implemented here.

    It is reported as the reason why the container does not start, so that nobody takes a pod for tried whose
    description was half ignored.
    """
