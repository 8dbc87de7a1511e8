"""How far back data of a class goes, compared with how long it must and may be kept."""
