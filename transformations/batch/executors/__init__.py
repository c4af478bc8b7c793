"""Where the partitions of a run are computed: in this process, in others, or on other machines."""
