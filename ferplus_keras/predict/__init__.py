"""From pictures to emotions: ``EmotionClassifier`` for Python, and the parts that ``ferplus predict`` is made of.

``sources`` finds pictures, ``decoding`` opens them, ``streaming`` keeps decoding and network busy at once, ``runtimes``
opens the network's file, ``records`` are the answers and the file they are kept in.
"""
