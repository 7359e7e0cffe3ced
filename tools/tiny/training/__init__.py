"""Trains darkroom-tiny from pictures that it draws itself.

`grammar` and `bodies` generate scenes, `figures` draws them, `tokenizer` and `blueprint` make the untrained model,
`drawn`, `autoencoding` and `denoising` are the stages of training. `run` goes through the stages, can be killed at any
time, and exports the diffusers folders.
"""
