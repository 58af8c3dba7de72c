"""DP-ImgSyn: public images aligned with released statistics of private ones, labelled by their teacher."""
