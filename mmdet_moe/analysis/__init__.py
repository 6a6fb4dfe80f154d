"""From a tested model to a page that shows what its experts do."""
