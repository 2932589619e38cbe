"""Images to train on: rendered cats, the user's own, public sets; their order; the pipeline."""
