"""From images to emotions: ``EmotionClassifier`` for Python, and the parts that ``ferplus predict`` is made of.

``sources`` finds images, ``decoding`` opens them in the memory that ``room`` allows, ``given`` takes what is given in
Python, ``streaming`` keeps decoding and network busy at once, ``records`` are the answers and the file they are kept
in. The network's file is opened by :mod:`ferplus_keras.engines`.
"""
