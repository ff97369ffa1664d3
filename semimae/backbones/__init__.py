"""Feature extractors with a classifier, all behind ``backbones.base.Backbone``."""
