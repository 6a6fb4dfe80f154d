'use strict';
(() => {
  const colours = {{ colours|tojson }};
  const form = document.getElementById('filters');
  const pictures = [...document.querySelectorAll('.picture')];

  function update() {
    const {layer, kind, expert: leading, ...groups} =
      Object.fromEntries(new FormData(form));
    const asked = Object.entries(groups).filter(([, group]) => group);
    let boxes = 0, shown = 0;
    for (const picture of pictures) {
      let here = 0;
      for (const box of picture.querySelectorAll('.box')) {
        const data = box.dataset;
        const expert = data.experts.split(',')[layer];
        const fits = data.kind === kind
          && (!leading || expert === leading)
          && asked.every(([by, group]) => data[by] === group);
        box.classList.toggle('off', !fits);
        box.querySelector('rect').setAttribute(
          'stroke', expert === '' ? '#fff' : colours[expert % colours.length]);
        box.querySelector('text').textContent = expert;
        here += fits;
      }
      picture.hidden = Boolean(leading || asked.length) && here === 0;
      for (const list of picture.querySelectorAll('.levels')) {
        list.hidden = list.dataset.layer !== layer;
      }
      boxes += here;
      shown += !picture.hidden;
    }
    document.getElementById('count').textContent =
      `${boxes} shown, in ${shown} of ${pictures.length} pictures.`;
  }

  form.addEventListener('change', update);
  form.addEventListener('reset', () => setTimeout(update));
  form.addEventListener('submit', (event) => event.preventDefault());
  update();
})();
