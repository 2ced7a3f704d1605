"""What every protocol calls: sessions, and the commit path that keeps files folds of logs."""
