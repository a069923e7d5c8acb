"""Policy folders: the network's config and parameters, its tokeniser and its chat template.

A policy folder is a Hugging Face model folder. `load` and `save` read and write it, `policy` holds
what is in it, `tokenizers` and `chat` turn text and conversations into token ids and back.
"""
