"""What every protocol calls: sessions, and the commit path that keeps each file a fold of its log."""
