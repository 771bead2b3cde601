"""Dataset check ("dataset doctor"): statistics and problems of a data set."""
