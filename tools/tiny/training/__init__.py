"""Trains darkroom-tiny from pictures that it draws itself.

`grammar` and `bodies` say what there is to draw, `figures` draws it, `tokenizer` and `blueprint` make the empty model,
`drawn`, `autoencoding` and `denoising` are the stages of training, `run` goes through them and can be killed at any
time, and `export` writes the diffusers folders.
"""
