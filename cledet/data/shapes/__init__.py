"""The embedded data set: drawn images with exact boxes."""
