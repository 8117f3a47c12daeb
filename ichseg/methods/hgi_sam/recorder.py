"""Attention and its gradients from every block of MONAI's SwinTransformer, reduced as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from monai.networks.nets.swin_unetr import SwinTransformer, SwinTransformerBlock, get_window_size
from torch import Tensor, nn

from ichseg.cam.extractor import evaluation_mode
from ichseg.methods.hgi_sam.attention import BlockAttention, key_weights

PLACES = ("scores", "probabilities")


class AttentionRecorder:
    """Context manager: a classifier over a SwinTransformer becomes a source of attention maps.

    Inside the ``with`` block the network is in evaluation mode and its weights are frozen; hooks are gone afterwards.
    Attention is averaged over queries, and weighted by its gradients, while the backward pass runs: of each block only
    (windows, tokens) numbers are kept, not (windows, heads, tokens, tokens).

    Args:
        model: holds one :class:`SwinTransformer`, 2-D; (B, C, H, W) -> logits (B, classes).
        gradients_at: ``"scores"``: gradients of what goes into the softmax, as the authors' code takes them; their rows
            add up to 0. ``"probabilities"``: of what comes out, as the paper's text says (decision D21).

    Raises:
        ValueError: no such transformer, or another place.
    """

    def __init__(self, model: nn.Module, gradients_at: str = "scores") -> None:
        if gradients_at not in PLACES:
            raise ValueError(f"gradients_at must be one of {', '.join(PLACES)}, not '{gradients_at}'")
        found = [module for module in model.modules() if isinstance(module, SwinTransformer)]
        if len(found) != 1:
            raise ValueError(f"expected a network with one SwinTransformer, not {len(found)}")
        self.model, self.gradients_at = model, gradients_at
        swin = found[0]
        stages = (swin.layers1, swin.layers2, swin.layers3, swin.layers4)
        self.blocks = [[one for one in stage.modules() if isinstance(one, SwinTransformerBlock)] for stage in stages]
        self._undo = ExitStack()
        self._ready = False
        self._plain: dict[nn.Module, BlockAttention] = {}
        self._infused: dict[nn.Module, Tensor] = {}
        self._places: dict[nn.Module, tuple[Any, ...]] = {}

    def __enter__(self) -> AttentionRecorder:
        with ExitStack() as undo:
            undo.enter_context(evaluation_mode(self.model))
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    undo.callback(parameter.requires_grad_, True)
                    parameter.requires_grad_(False)
            for block in (block for stage in self.blocks for block in stage):
                undo.callback(block.register_forward_pre_hook(self._where).remove)
                softmax = block.attn.softmax
                undo.callback(softmax.register_forward_hook(partial(self._attention, block)).remove)
            self._undo = undo.pop_all()
        self._ready = True
        return self

    def __exit__(self, *error: object) -> None:
        self._ready = False
        self._undo.close()
        self._forget()

    def __call__(
        self, images: Tensor, target: int = 1, infused: bool = True
    ) -> tuple[Tensor, list[list[BlockAttention]]]:
        """(B, C, H, W) -> logits (B, classes), and the attention of every block of the four stages, all detached.

        Args:
            images: (B, C, H, W).
            target: class whose logit is differentiated.
            infused: weight heads by their gradients; False needs no backward pass.

        Raises:
            ValueError: used outside the ``with`` block, or there is no such class.
        """
        if not self._ready:
            raise ValueError("use the recorder in a 'with' block, so that its hooks are removed")
        self._forget()
        with torch.inference_mode(False), torch.set_grad_enabled(infused):
            logits = self.model(images.detach().clone().requires_grad_(infused))
            if not -logits.shape[1] <= target < logits.shape[1]:
                raise ValueError(f"target {target} is none of the {logits.shape[1]} classes")
            if infused:
                # In evaluation mode every image of the batch keeps its own gradient.
                logits[:, target].sum().backward()
        found = [[self._plain[block] for block in stage] for stage in self.blocks]
        if infused:
            found = [
                [BlockAttention(self._infused[block], *self._places[block]) for block in stage] for stage in self.blocks
            ]
        self._forget()
        return logits.detach(), found

    def _forget(self) -> None:
        self._plain, self._infused, self._places = {}, {}, {}

    def _where(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Before a block: its grid of tokens, from (B, rows, columns, channels)."""
        grid = tuple(inputs[0].shape[1:3])
        window, shift = get_window_size(grid, block.window_size, block.shift_size)
        self._places[block] = (grid, tuple(window), tuple(shift))

    def _attention(self, block: nn.Module, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        attention = output.detach()
        if not output.requires_grad:
            self._plain[block] = BlockAttention(key_weights(attention.float()), *self._places[block])
            return
        self._plain[block] = BlockAttention(attention.new_empty(0), *self._places[block])
        source = inputs[0] if self.gradients_at == "scores" else output
        source.register_hook(self._gradient(block, attention))

    def _gradient(self, block: nn.Module, attention: Tensor) -> Callable[[Tensor], None]:
        def reduce(gradient: Tensor) -> None:
            self._infused[block] = key_weights(attention.float(), gradient.float())

        return reduce
