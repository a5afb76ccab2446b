"""Make a hospital's image archive findable by what is in the images.

    Source.find -> Series -> Selection -> Queue
    -> Source.retrieve -> Instance -> Geometry -> Volume -> Segmentation -> Measurement
    -> Annotation -> AnnotatedSeries -> Queue's results feed -> Index and Sinks -> search

Each arrow is one module, named after what it makes. Start reading at `pipeline.py`.
"""
