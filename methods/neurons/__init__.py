"""Knowledge neurons and representation similarity across languages (Dai et al. 2022; Xu et al. 2023, section 5).

attribution.py scores the neurons, refine.py makes sets of them, overlap.py compares the sets, effects.py switches them
off and up, similarity.py compares the states; study.py runs all of it for every language, with and without LRP2.
"""
