"""Where runs are mirrored to, one file a tracker."""
