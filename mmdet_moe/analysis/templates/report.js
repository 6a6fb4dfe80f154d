'use strict';
(() => {
  const colours = {{ colours|tojson }};
  const form = document.getElementById('filters');
  const pictures = [...document.querySelectorAll('.picture')];

  function update() {
    const wanted = Object.fromEntries(new FormData(form));
    let boxes = 0, shown = 0;
    for (const picture of pictures) {
      let here = 0;
      for (const box of picture.querySelectorAll('.box')) {
        const data = box.dataset;
        const expert = data.experts.split(',')[wanted.layer];
        const fits = data.kind === wanted.kind
          && (!wanted.expert || expert === wanted.expert)
          && (!wanted.size || data.size === wanted.size)
          && (!wanted.label || data.label === wanted.label)
          && (!wanted.level || data.level === wanted.level);
        box.classList.toggle('off', !fits);
        box.querySelector('rect').setAttribute(
          'stroke', expert === '' ? '#fff' : colours[expert % colours.length]);
        box.querySelector('text').textContent = expert;
        here += fits;
      }
      const filtered = wanted.expert || wanted.size || wanted.label || wanted.level;
      picture.hidden = Boolean(filtered) && here === 0;
      for (const list of picture.querySelectorAll('.levels')) {
        list.hidden = list.dataset.layer !== wanted.layer;
      }
      boxes += here;
      shown += !picture.hidden;
    }
    document.getElementById('count').textContent =
      `${boxes} boxes in ${shown} of ${pictures.length} pictures.`;
  }

  form.addEventListener('change', update);
  form.addEventListener('reset', () => setTimeout(update));
  form.addEventListener('submit', (event) => event.preventDefault());
  update();
})();
