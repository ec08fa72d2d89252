// Loaded before the first paint, so that the other theme is never visible.
{
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
