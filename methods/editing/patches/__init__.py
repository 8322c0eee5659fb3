"""Patch neurons: sequential editing of a classifier or language model, one mistake, one neuron, in many languages.

Transformer-Patcher (Huang et al. 2023) and multilingual patch neurons (MPN, Si et al. 2024)::

    site = PatchSite(load_editable(address, "classifier", edited_blocks=1))
    cache = AnswerCache(site)
    memory = memory_of(cache, training_texts, validation_texts)
    result = run_stream(cache, memory, edits, Evaluation(train, test), StreamConfig(), scratch=folder)
    with site.attached(result.neurons):   # or site.merged
        ...
"""
